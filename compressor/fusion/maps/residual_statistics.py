"""Statistics of the teachers' residual streams and their readers, all from one pass of each teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, LinearOp, Norm
from compressor.anatomy.hooks import Tap, logits_of
from compressor.anatomy.queries import space_taps
from compressor.errors import UserError
from compressor.fusion.calibration.batches import Batch
from compressor.fusion.calibration.capture import capture_taps, check_captured
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.sizes import samples_of_tokens, stream_tokens
from compressor.fusion.calibration.statistics import Gram, join_coordinates, token_rows
from compressor.fusion.context import FusionContext
from compressor.fusion.features.weight_features import space_weight_gram
from compressor.fusion.maps.reader_pca import StreamRead
from compressor.fusion.maps.residual import ResidualProblem
from compressor.fusion.maps.streamed_statistics import MeanMoment, streamed_moments
from compressor.fusion.plan import is_folded, wide_spaces
from compressor.fusion.teacher import FusionTeacher
from compressor.models.inputs import without_labels

#: Samples for residual maps, at most, and tokens: few are enough, since every layer's count.
RESIDUAL_SAMPLES, RESIDUAL_TOKENS, TOKENS_PER_COORDINATE = 128, 8192, 8
#: Weight of the stream itself, in modules: norms divide by its size, writers are fitted to it.
STREAM_WEIGHT = 3


def residual_problems(context: FusionContext, *, reads: bool = False) -> dict[str, ResidualProblem]:
    """Problems of residual and embedding spaces.

    Args:
        reads: with the streams' reads, which the same pass measures.
    """
    models = [*context.teachers, *([context.anchor] if context.anchor is not None else [])]
    spaces = wide_spaces(context.anatomy)
    measured: dict[str, list[StreamRead]] = {}
    if context.calibration is None or not context.from_activations:
        grams = {space: space_weight_gram(models, space) for space in spaces}
    else:
        readings = {space: _readings(context.anatomy, space, models[0]) if reads else [] for space in spaces}
        processes = context.processes
        samples = processes.part(context.calibration.subset(_sample_count(context, models)))
        if context.streaming is not None:
            grams = streamed_moments(models, context.anatomy, spaces, samples, context.streaming.store, processes)
            return _problems(context, grams, {})
        moments = _stream_moments(models, context.anatomy, spaces, readings, samples)
        for gram in {id(gram): gram for gram in moments.values()}.values():
            gram.add_up(processes)
        grams = {space: _mean_moment(models, context.anatomy, space, moments) for space in spaces}
        if reads:
            measured = {space: _stream_reads(context.teachers, space, readings[space], moments) for space in spaces}
    return _problems(context, grams, measured)


def _problems(
    context: FusionContext, grams: Mapping[str, Tensor], measured: Mapping[str, Sequence[StreamRead]]
) -> dict[str, ResidualProblem]:
    return {
        space: ResidualProblem(
            gram=grams[space],
            sizes=[teacher.space(space).size for teacher in context.teachers],
            weights=[teacher.weight for teacher in context.teachers],
            m=context.anatomy.spaces[space].size,
            centred=space in context.anatomy.centred and context.anatomy.rotatable(space),
            rotatable=context.anatomy.rotatable(space),
            coupling=context.coupling,
            reads=measured.get(space, ()),
            placed=context.anatomy.spaces[space].placed,
            scales=[_norm_scales(context.anatomy, space, teacher) for teacher in context.teachers],
        )
        for space in grams
    }


def space_grams(
    teachers: Sequence[FusionTeacher], anatomy: Anatomy, spaces: Sequence[str], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Joint second moments over all depths, {space: [Σ n_k, Σ n_k]}.

    Each depth's are divided by its mean square, whose growth norms cancel.
    """
    moments = _stream_moments(teachers, anatomy, spaces, {}, batches)
    return {space: _mean_moment(teachers, anatomy, space, moments) for space in spaces}


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


def space_reads(
    teachers: Sequence[FusionTeacher], anatomy: Anatomy, spaces: Sequence[str], batches: Sequence[Batch]
) -> dict[str, list[StreamRead]]:
    """Where linear modules read residual or embedding spaces, {space: reads}.

    Modules count alike; the stream counts like `STREAM_WEIGHT` of them.  Heads count by differences between classes,
    since
    softmax cancels their mean.
    """
    readings = {space: _readings(anatomy, space, teachers[0]) for space in spaces}
    moments = _stream_moments(teachers, anatomy, spaces, readings, batches)
    return {space: _stream_reads(teachers, space, readings[space], moments) for space in spaces}


def _norm_scales(anatomy: Anatomy, space: str, teacher: FusionTeacher) -> Tensor:
    """What a space's norms that keep their scale multiply a teacher's coordinates by, float64 [norms, n]."""
    scales = []
    for norm in anatomy.norms:
        weight = (
            teacher.tensor(f"{norm.module}.weight") if norm.space == space and not is_folded(anatomy, norm) else None
        )
        if weight is not None:
            scales.append(weight.double() + 1 - norm.unit_scale)
    return torch.stack(scales) if scales else torch.zeros(0, teacher.space(space).size, dtype=torch.float64)


def _sample_count(context: FusionContext, models: Sequence[FusionTeacher]) -> int:
    """Samples whose tokens suffice."""
    assert context.calibration is not None
    size = max(sum(teacher.space(space.name).size for teacher in models) for space in context.anatomy.residuals)
    wanted = max(RESIDUAL_TOKENS, TOKENS_PER_COORDINATE * size)
    return samples_of_tokens(wanted, stream_tokens(models[0], context.calibration.all), 1, RESIDUAL_SAMPLES)


@torch.no_grad()
def _stream_moments(
    teachers: Sequence[FusionTeacher],
    anatomy: Anatomy,
    spaces: Sequence[str],
    readings: Mapping[str, Sequence[_Reading]],
    batches: Sequence[Batch],
) -> dict[tuple[str, Tap], Gram]:
    """Joint moments of all teachers' coordinates, by space and tap; taps of one tensor share them."""
    taps = {
        space: dict.fromkeys([*space_taps(anatomy, space), *(reading.tap for reading in readings.get(space, ()))])
        for space in spaces
    }
    masks = Masks(batches, anatomy)
    #: {tap: the tap whose sums serve it}.
    first: dict[tuple[str, Tap], tuple[str, Tap]] = {}
    known: dict[tuple[Any, ...], tuple[str, Tap]] = {}
    grams: dict[tuple[str, Tap], Gram] = {}
    for index, batch in enumerate(batches):
        captured = [
            _capture(t, list(dict.fromkeys(tap for group in taps.values() for tap in group)), batch) for t in teachers
        ]
        for space, group in taps.items():
            for tap in group:
                if index == 0:
                    stack = anatomy.tokens.get(tap[0])
                    same = (space, stack, *((v[tap].data_ptr(), v[tap].shape, v[tap].stride()) for v in captured))
                    first[space, tap] = known.setdefault(same, (space, tap))
                if first[space, tap] != (space, tap):
                    continue
                # A head may read several tokens side by side.
                parts = [
                    token_rows(values[tap], masks.of(index, tap[0])).reshape(-1, teacher.space(space).size)
                    for teacher, values in zip(teachers, captured, strict=True)
                ]
                joint = join_coordinates(parts)
                grams.setdefault((space, tap), Gram(joint.shape[1])).add(joint)
    return {place: grams[representative] for place, representative in first.items()}


def _mean_moment(
    teachers: Sequence[FusionTeacher], anatomy: Anatomy, space: str, moments: Mapping[tuple[str, Tap], Gram]
) -> Tensor:
    """The mean of all depths' moments, each divided by its mean square."""
    mean, taps = MeanMoment(teachers, space), space_taps(anatomy, space)
    for tap in taps:
        mean.add(moments[space, tap])
    return mean.total / len(taps)


def _stream_reads(
    teachers: Sequence[FusionTeacher],
    space: str,
    readings: Sequence[_Reading],
    moments: Mapping[tuple[str, Tap], Gram],
) -> list[StreamRead]:
    """The reads of one space; moments in the activations' precision."""
    n = sum(teacher.space(space).size for teacher in teachers)
    reads = []
    for reading in readings:
        gram = moments[space, reading.tap]
        # An anchor comes last, and reads nothing.
        read = _stream_read(teachers, space, reading, gram.second_moment()[:n, :n])
        reads.append(StreamRead(read.moments.to(gram.dtype), tuple(each.to(gram.dtype) for each in read.readers)))
    return reads


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
