"""Depth: assign the teachers' layers to the student's.

The deepest teacher skips the layers that change the stream least; others are aligned by dynamic programming on 1 - CKA.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, Stack
from compressor.anatomy.hooks import Tap, logits_of
from compressor.errors import UnsupportedError
from compressor.fusion.calibration.batches import Batch, CalibrationSet
from compressor.fusion.calibration.capture import capture_taps, check_captured
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.statistics import token_rows
from compressor.fusion.teacher import FusionTeacher, LayerSpan
from compressor.models.inputs import without_labels

#: Samples on which layers are compared.
DEPTH_SAMPLES = 32


@dataclass(frozen=True)
class LayerAssignment:
    """The teachers' last layers for each of the student's.

    Attributes:
        ends: per stack, teacher and layer; None for equal depths.
    """

    ends: tuple[tuple[tuple[int, ...], ...] | None, ...]

    def of_teacher(self, index: int) -> list[tuple[int, ...] | None]:
        """One teacher's layers, per stack."""
        return [None if stack is None else stack[index] for stack in self.ends]

    def spans(self, teachers: Sequence[FusionTeacher], student: Anatomy) -> list[dict[str, LayerSpan]]:
        """Per teacher, {layer of the student: the teacher's layers}.

        Raises:
            UnsupportedError: no layer has the parameters.
        """
        spans: list[dict[str, LayerSpan]] = [{} for _ in teachers]
        for index, (stack, ends) in enumerate(zip(student.stacks, self.ends, strict=True)):
            if ends is None:
                continue
            for teacher_spans, teacher, teacher_ends in zip(spans, teachers, ends, strict=True):
                layers, before = teacher.anatomy.stacks[index].layers, -1
                for layer, end in zip(stack.layers, teacher_ends, strict=True):
                    end = _covering(teacher, layers, max(end, before), student, stack, layer)
                    teacher_spans[layer] = LayerSpan(layers[before + 1 : end + 1], layers[end])
                    before = end
        return spans


def assign_layers(
    teachers: Sequence[FusionTeacher], depths: Sequence[int], calibration: CalibrationSet | None
) -> LayerAssignment:
    """Assign the teachers' layers to the student's `depths`, evenly without calibration."""
    ends: list[tuple[tuple[int, ...], ...] | None] = []
    for index, depth in enumerate(depths):
        layers = [teacher.anatomy.stacks[index].layers for teacher in teachers]
        alike = all(len(names) == depth for names in layers)
        ends.append(None if alike else tuple(map(tuple, _stack_ends(teachers, layers, depth, calibration))))
    return LayerAssignment(tuple(ends))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of activations [T, n] and [T, m], in [0, 1] (Kornblith et al., 2019)."""
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    shared = (x.T @ y).square().sum()
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return float(shared / scale.clamp(min=1e-30))


def keep_influential(influence: Sequence[float], count: int) -> list[int]:
    """The last and the most influential layers, `count` in all."""
    last = len(influence) - 1
    others = sorted(range(last), key=lambda layer: influence[layer], reverse=True)[: count - 1]
    return sorted([*others, last])


def align_monotone(distance: Tensor) -> list[int]:
    """Assign a teacher's checkpoints to the student's by dynamic programming, never decreasing.

    Args:
        distance: [student's, teacher's].
    """
    count, size = distance.shape
    best = torch.full((count, size), float("inf"), dtype=torch.float64)
    previous = torch.zeros(count, size, dtype=torch.long)
    best[0] = distance[0]
    for i in range(1, count):
        for j in range(size):
            previous[i, j] = int(best[i - 1, : j + 1].argmin())
            best[i, j] = distance[i, j] + best[i - 1, int(previous[i, j])]
    path = [size - 1]
    for i in range(count - 1, 0, -1):
        path.append(int(previous[i, path[-1]]))
    return path[::-1]


def evenly_spaced_layer(student: int, teacher: int) -> list[int]:
    """Per student's layer, the teacher's at that depth."""
    return [max(0, round((i + 1) * teacher / student) - 1) for i in range(student)]


def _covering(
    teacher: FusionTeacher, layers: Sequence[str], end: int, student: Anatomy, stack: Stack, layer: str
) -> int:
    """The teacher's first layer from `end` on with the student's parameters, save those of first layers alone."""
    needed = _parameters_of(student, layer)
    if layer == stack.layers[0] and len(layers) > 1:
        needed -= _parameters_of(teacher.anatomy, layers[0]) - _parameters_of(teacher.anatomy, layers[1])
    for place in range(end, len(layers)):
        if needed <= _parameters_of(teacher.anatomy, layers[place]):
            return place
    odd = sorted(needed - _parameters_of(teacher.anatomy, layers[end]))[0]
    raise UnsupportedError(f"no layer of {teacher.name} can stand for the student's {layer}: none has its {odd}")


def _parameters_of(anatomy: Anatomy, layer: str) -> set[str]:
    """A layer's parameters, by their names in it."""
    return {name[len(layer) + 1 :] for name in anatomy.axes if name.startswith(layer + ".")}


def _stack_ends(
    teachers: Sequence[FusionTeacher],
    layers: Sequence[tuple[str, ...]],
    depth: int,
    calibration: CalibrationSet | None,
) -> list[list[int]]:
    """Per teacher, its last layers for one stack."""
    if calibration is None:
        return [evenly_spaced_layer(depth, len(names)) for names in layers]
    samples = calibration.subset(DEPTH_SAMPLES)
    streams = [_streams(teacher, names, samples) for teacher, names in zip(teachers, layers, strict=True)]
    deepest = max(range(len(layers)), key=lambda k: len(layers[k]))
    reference = streams[deepest]
    influence = [1 - linear_cka(before, after) for before, after in itertools.pairwise(reference)]
    selected = keep_influential(influence, depth)
    ends = []
    for k, stream in enumerate(streams):
        if k == deepest:
            ends.append(selected)
            continue
        distance = torch.tensor(
            [[1 - linear_cka(reference[end + 1], after) for after in stream[1:]] for end in selected],
            dtype=torch.float64,
        )
        ends.append(align_monotone(distance))
    return ends


@torch.no_grad()
def _streams(teacher: FusionTeacher, layers: Sequence[str], batches: Sequence[Batch]) -> list[Tensor]:
    """The residual stream around every layer, [T, n] float64."""
    taps: list[Tap] = [(layers[0], "in"), *((layer, "out") for layer in layers)]
    masks = Masks(batches, teacher.anatomy)
    streams: list[list[Tensor]] = [[] for _ in taps]
    for index, batch in enumerate(batches):
        with capture_taps(teacher.model, taps) as captured:
            logits_of(teacher.model, without_labels(batch))
        check_captured(teacher.name, captured)
        for values, tap in zip(streams, taps, strict=True):
            values.append(token_rows(captured[tap], masks.of(index, tap[0])).double())
    return [torch.cat(values) for values in streams]
