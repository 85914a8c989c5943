"""Depth: which of a teacher's layers stand for each of the student's.

With one residual map for all depths, depth is only a choice of checkpoints.  Of the deepest teacher the layers that
change the residual stream least are skipped first; every other teacher is aligned to it by monotone dynamic
programming on 1 - linear CKA, ends pinned.  What a skipped layer added is left to the refit of the next one, which is
fitted to the residual stream behind both.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, Stack
from compressor.anatomy.hooks import logits_of
from compressor.errors import UnsupportedError
from compressor.fusion.calibration.batches import take_samples, without_labels
from compressor.fusion.calibration.layerwise import Tap, capture_taps, check_seen
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.statistics import token_rows
from compressor.fusion.teacher import FusionTeacher, LayerSpan

#: Samples that the layers are compared on.
DEPTH_SAMPLES = 32


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Linear centred kernel alignment of activations [T, n] and [T, m], in [0, 1] (Kornblith et al., 2019)."""
    one, other = one - one.mean(dim=0), other - other.mean(dim=0)
    shared = (one.T @ other).square().sum()
    scale = (one.T @ one).norm() * (other.T @ other).norm()
    return float(shared / scale.clamp(min=1e-30))


def keep_influential(influence: Sequence[float], kept: int) -> list[int]:
    """The `kept` most influential layers in their order; the last one is always among them.

    Args:
        influence: of every layer, how much it changes the residual stream.
        kept: how many to keep.
    """
    last = len(influence) - 1
    others = sorted(range(last), key=lambda layer: influence[layer], reverse=True)[: kept - 1]
    return sorted([*others, last])


def align_monotone(distance: Tensor) -> list[int]:
    """Monotone assignment of the student's checkpoints to a teacher's, by dynamic programming.

    Args:
        distance: [student's checkpoints, teacher's checkpoints], both in order.

    Returns:
        For each of the student's checkpoints the teacher's, never decreasing; the last goes to the last.
    """
    count, size = distance.shape
    best = torch.full((count, size), float("inf"), dtype=torch.float64)
    came = torch.zeros(count, size, dtype=torch.long)
    best[0] = distance[0]
    for i in range(1, count):
        for j in range(size):
            came[i, j] = int(best[i - 1, : j + 1].argmin())
            best[i, j] = distance[i, j] + best[i - 1, int(came[i, j])]
    path = [size - 1]
    for i in range(count - 1, 0, -1):
        path.append(int(came[i, path[-1]]))
    return path[::-1]


def evenly_spaced_layer(student: int, teacher: int) -> list[int]:
    """The teacher's layer behind which it has gone as far as the student's layer has, without looking at data."""
    return [max(0, round((i + 1) * teacher / student) - 1) for i in range(student)]


#: Per stack and teacher, the layer that it has reached behind each of the student's; None where all are as deep.
LayerAssignment = list[list[list[int]] | None]


def assign_layers(
    sources: Sequence[FusionTeacher], depths: Sequence[int], batches: Sequence[Mapping[str, Tensor]] | None
) -> LayerAssignment:
    """How far each teacher has come behind each of the student's layers.

    Args:
        sources: the teachers.
        depths: layers of each of the student's stacks.
        batches: calibration inputs; without any, layers are spread evenly.
    """
    found: LayerAssignment = []
    for index, depth in enumerate(depths):
        lists = [source.anatomy.stacks[index].layers for source in sources]
        alike = all(len(layers) == depth for layers in lists)
        found.append(None if alike else _reached(sources, lists, depth, batches))
    return found


def layer_spans(
    sources: Sequence[FusionTeacher], student: Anatomy, ends: LayerAssignment
) -> list[dict[str, LayerSpan]]:
    """Per teacher, which of its layers stand for each of the student's.

    Args:
        sources: the teachers.
        student: the student's anatomy.
        ends: what `assign_layers` says.

    Raises:
        UnsupportedError: no layer of a teacher has the parameters that the student's has.
    """
    found: list[dict[str, LayerSpan]] = [{} for _ in sources]
    for index, (stack, reach) in enumerate(zip(student.stacks, ends, strict=True)):
        if reach is None:
            continue
        for own, source, last in zip(found, sources, reach, strict=True):
            layers, before = source.anatomy.stacks[index].layers, -1
            for layer, end in zip(stack.layers, last, strict=True):
                end = _covering(source, layers, max(end, before), student, stack, layer)
                own[layer] = LayerSpan(layers[before + 1 : end + 1], layers[end])
                before = end
    return found


def _covering(
    source: FusionTeacher, layers: Sequence[str], end: int, student: Anatomy, stack: Stack, layer: str
) -> int:
    """The first of a teacher's layers from the one reached on that has every parameter of the student's.

    First layers may have less: ModernBERT's has no norm in front of its attention.  What only the first one of a stack
    has (T5's table of relative positions) is the whole stack's: it need not be there.
    """
    asked = _below(student, layer)
    if layer == stack.layers[0] and len(layers) > 1:
        asked -= _below(source.anatomy, layers[0]) - _below(source.anatomy, layers[1])
    for place in range(end, len(layers)):
        if asked <= _below(source.anatomy, layers[place]):
            return place
    odd = sorted(asked - _below(source.anatomy, layers[end]))[0]
    raise UnsupportedError(f"no layer of {source.name} can stand for the student's {layer}: none has its {odd}")


def _below(anatomy: Anatomy, layer: str) -> set[str]:
    """The parameters of a layer, by their names in it."""
    return {name[len(layer) + 1 :] for name in anatomy.axes if name.startswith(layer + ".")}


def _reached(
    sources: Sequence[FusionTeacher],
    lists: Sequence[tuple[str, ...]],
    depth: int,
    batches: Sequence[Mapping[str, Tensor]] | None,
) -> list[list[int]]:
    """Per teacher, the layer it has reached behind each of the student's."""
    if batches is None:
        return [evenly_spaced_layer(depth, len(layers)) for layers in lists]
    streams = [_streams(source, layers, batches) for source, layers in zip(sources, lists, strict=True)]
    deepest = max(range(len(lists)), key=lambda k: len(lists[k]))
    reference = streams[deepest]
    influence = [1 - linear_cka(before, behind) for before, behind in itertools.pairwise(reference)]
    kept = keep_influential(influence, depth)
    found = []
    for k, stream in enumerate(streams):
        if k == deepest:
            found.append(kept)
            continue
        distance = torch.tensor(
            [[1 - linear_cka(reference[end + 1], behind) for behind in stream[1:]] for end in kept], dtype=torch.float64
        )
        found.append(align_monotone(distance))
    return found


@torch.no_grad()
def _streams(source: FusionTeacher, layers: Sequence[str], batches: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """The residual stream before the first layer and behind every one, on a few tokens: [T, n] float64 each."""
    spots: list[Tap] = [(layers[0], "in"), *((layer, "out") for layer in layers)]
    masks = Masks(few := take_samples(batches, DEPTH_SAMPLES), source.anatomy)
    found: list[list[Tensor]] = [[] for _ in spots]
    for index, batch in enumerate(few):
        with capture_taps(source.model, spots) as seen:
            logits_of(source.model, without_labels(batch))
        check_seen(source.name, seen)
        for values, spot in zip(found, spots, strict=True):
            values.append(token_rows(seen[spot], masks.of(index, spot[0])).double())
    return [torch.cat(values) for values in found]
