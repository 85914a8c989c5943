"""Statistics of the teachers' residual streams and their readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, LinearOp, Norm
from compressor.anatomy.hooks import Tap, logits_of
from compressor.anatomy.queries import space_taps
from compressor.errors import UserError
from compressor.fusion.calibration.batches import Batch
from compressor.fusion.calibration.capture import capture_taps, check_captured
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.statistics import Gram, join_coordinates, token_rows
from compressor.fusion.context import FusionContext
from compressor.fusion.features.weight_features import space_weight_gram
from compressor.fusion.maps.reader_pca import StreamRead
from compressor.fusion.maps.residual import ResidualProblem
from compressor.fusion.plan import is_folded, wide_spaces
from compressor.fusion.teacher import FusionTeacher
from compressor.models.inputs import without_labels

#: Samples for residual maps: few are enough, since every layer's tokens count.
RESIDUAL_SAMPLES = 128
#: Weight of the stream itself, in modules: norms divide by its size, writers are fitted to it.
STREAM_WEIGHT = 3


def residual_problems(context: FusionContext) -> dict[str, ResidualProblem]:
    """Problems of residual and embedding spaces."""
    models = [*context.teachers, *([context.anchor] if context.anchor is not None else [])]
    spaces = wide_spaces(context.anatomy)
    if context.calibration is None or not context.from_activations:
        grams = {space: space_weight_gram(models, space) for space in spaces}
    else:
        grams = space_grams(models, context.anatomy, spaces, context.calibration.subset(RESIDUAL_SAMPLES))
    return {
        space: ResidualProblem(
            gram=grams[space],
            sizes=[teacher.space(space).size for teacher in context.teachers],
            weights=[teacher.weight for teacher in context.teachers],
            m=context.anatomy.spaces[space].size,
            centred=space in context.anatomy.centred and context.anatomy.rotatable(space),
            rotatable=context.anatomy.rotatable(space),
            coupling=context.coupling,
        )
        for space in spaces
    }


def with_reads(context: FusionContext, problems: Mapping[str, ResidualProblem]) -> dict[str, ResidualProblem]:
    """Add reads to the problems, by a second pass."""
    assert context.calibration is not None
    samples = context.calibration.subset(RESIDUAL_SAMPLES)
    reads = space_reads(context.teachers, context.anatomy, list(problems), samples)
    return {space: replace(problem, reads=reads[space]) for space, problem in problems.items()}


@torch.no_grad()
def space_grams(
    teachers: Sequence[FusionTeacher], anatomy: Anatomy, spaces: Sequence[str], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Joint second moments over all depths, {space: [Σ n_k, Σ n_k]}.

    Each depth's are divided by its mean square, whose growth norms cancel.
    """
    taps = {space: space_taps(anatomy, space) for space in spaces}
    masks = Masks(batches, anatomy)
    grams: dict[tuple[str, Tap], Gram] = {}
    for index, batch in enumerate(batches):
        for place, values in _joint_values(teachers, taps, masks, index, batch):
            grams.setdefault(place, Gram(values.shape[1])).add(values)
    moments = {}
    for space in spaces:
        sizes = [teacher.space(space).size for teacher in teachers]
        share = torch.cat([torch.full((n,), t.weight / n) for n, t in zip(sizes, teachers, strict=True)])
        total = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64)
        for tap in taps[space]:
            moment = grams[space, tap].second_moment()
            total += moment / (moment.diagonal() @ share.double()).clamp(min=1e-30)
        moments[space] = total / len(taps[space])
    return moments


@dataclass(frozen=True)
class _Reading:
    """Linear modules that read the stream at one place.

    Attributes:
        tap: before their norm if rotatable.
        norm: only one that keeps its scale.
    """

    tap: Tap
    ops: tuple[LinearOp, ...]
    norm: Norm | None


@torch.no_grad()
def space_reads(
    teachers: Sequence[FusionTeacher], anatomy: Anatomy, spaces: Sequence[str], batches: Sequence[Batch]
) -> dict[str, list[StreamRead]]:
    """Where linear modules read residual or embedding spaces, {space: reads}.

    Modules count alike; the stream counts like `STREAM_WEIGHT` of them.  Heads count by differences between classes,
    since
    softmax cancels their mean.
    """
    readings = {space: _readings(anatomy, space, teachers[0]) for space in spaces}
    masks = Masks(batches, anatomy)
    grams: dict[tuple[str, Tap], Gram] = {}
    for index, batch in enumerate(batches):
        taps = [reading.tap for space_readings in readings.values() for reading in space_readings]
        captured = [_capture(teacher, taps, batch) for teacher in teachers]
        for space, space_readings in readings.items():
            for tap in (reading.tap for reading in space_readings):
                # A head may read several tokens side by side.
                parts = [
                    token_rows(values[tap], masks.of(index, tap[0])).reshape(-1, teacher.space(space).size)
                    for teacher, values in zip(teachers, captured, strict=True)
                ]
                joint = join_coordinates(parts)
                grams.setdefault((space, tap), Gram(joint.shape[1])).add(joint)
    return {
        space: [
            _stream_read(teachers, space, reading, grams.pop((space, reading.tap)).second_moment())
            for reading in space_readings
        ]
        for space, space_readings in readings.items()
    }


def _joint_values(
    teachers: Sequence[FusionTeacher], taps: Mapping[str, Sequence[Tap]], masks: Masks, index: int, batch: Batch
) -> Iterator[tuple[tuple[str, Tap], Tensor]]:
    """One batch's pooled coordinates [T, Σ n_k], by space and tap."""
    captured = [_capture(teacher, [tap for group in taps.values() for tap in group], batch) for teacher in teachers]
    for space, group in taps.items():
        for tap in group:
            yield (space, tap), join_coordinates([token_rows(v[tap], masks.of(index, tap[0])) for v in captured])


def _capture(teacher: FusionTeacher, taps: Sequence[Tap], batch: Batch) -> dict[Tap, Tensor]:
    """One teacher's tensors, by the student's taps."""
    local = [(teacher.local_name(module), end) for module, end in taps]
    with capture_taps(teacher.model, list(dict.fromkeys(local))) as captured:
        logits_of(teacher.model, without_labels(batch))
    check_captured(teacher.name, captured)
    missed = next((module for module, _ in dict.fromkeys(local) if all(module != seen for seen, _ in captured)), None)
    if missed is not None:
        raise UserError(
            f"{teacher.name}: the calibration samples do not run {missed}, so nothing is known about it: give samples "
            f"with every input that this {teacher.model.config.model_type} reads, or none to align the weights alone"
        )
    return {tap: captured[local_tap] for tap, local_tap in zip(taps, local, strict=True)}


def _readings(anatomy: Anatomy, space: str, teacher: FusionTeacher) -> list[_Reading]:
    readings: dict[Tap, _Reading] = {}
    for op in anatomy.steps:
        weight = teacher.tensor(op.weight)
        if op.reads != space or weight is None or weight.dim() != 2:
            continue
        before = [norm for norm in anatomy.norms if norm.space == space and op.module in norm.readers]
        norm = before[0] if before and anatomy.rotatable(space) else None
        tap: Tap = (op.module if norm is None else norm.module, "in")
        known = readings.get(tap)
        scaling = norm if norm is not None and not is_folded(anatomy, norm) else None
        readings[tap] = _Reading(tap, (*(known.ops if known else ()), op), scaling)
    return list(readings.values())


def _stream_read(teachers: Sequence[FusionTeacher], space: str, reading: _Reading, moments: Tensor) -> StreamRead:
    readers, start = [], 0
    for teacher in teachers:
        size = teacher.space(space).size
        block = moments[start : start + size, start : start + size]
        total = STREAM_WEIGHT * torch.eye(size).to(block) / block.diagonal().sum().clamp(min=1e-30)
        for op in reading.ops:
            weight = teacher.read_weight(op).double()
            if op.writes is None and weight.shape[1] > 1:
                weight = weight - weight.mean(1, keepdim=True)
            if reading.norm is not None:
                scale = teacher.tensor(f"{reading.norm.module}.weight")
                assert scale is not None
                weight = (scale + 1 - reading.norm.unit_scale)[:, None] * weight
            gram = torch.stack([part @ part.T for part in weight.split(size)]).sum(0)
            total += gram / (gram * block).sum().clamp(min=1e-30)
        readers.append(total)
        start += size
    return StreamRead(moments, tuple(readers))
