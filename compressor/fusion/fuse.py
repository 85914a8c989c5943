"""Fuse teachers into one narrow student."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compressor.anatomy.batch_norms import measure_statistics, without_statistics
from compressor.anatomy.hooks import logits_of
from compressor.ensemble.object_places import in_one_order
from compressor.ensemble.stacking import Mixture
from compressor.errors import FusionWarning, UnsupportedError, UserError
from compressor.fusion.anchored.align_to_anchor import fuse_towards_anchor
from compressor.fusion.anchored.policies import POLICIES
from compressor.fusion.build.sentence_projection import check_projection, fit_projection
from compressor.fusion.calibration.batches import MOST_CALL_LOGITS, Batch, CalibrationSet, split_large_batches
from compressor.fusion.calibration.processes import ALONE, Processes
from compressor.fusion.calibration.sizes import stream_tokens
from compressor.fusion.context import (
    FusionContext,
    OnProgress,
    StageTimer,
    coupling_options,
    set_buffers,
    streamed_candidate,
    student_candidates,
)
from compressor.fusion.joint.search import fuse_jointly
from compressor.fusion.maps.residual import RESIDUAL_MAPS
from compressor.fusion.mixture import mixture_of
from compressor.fusion.result import FusionResult, collect_result
from compressor.fusion.shape.depth import assign_layers
from compressor.fusion.shape.spec import specs_for, student_depths
from compressor.fusion.streaming import CALL_TOKENS, Streaming, are_streamed, check_streamable, fixed_options
from compressor.fusion.teacher import NamedModel, TeacherGroup, prepare_teachers
from compressor.models.headless.sentence_pooling import with_embedding
from compressor.models.inherited.generation import carry_generation
from compressor.models.inputs import check_padding, name_architecture, without_labels
from compressor.models.precision import SINGLE, in_single, inputs_in_single, lower, precision_of
from compressor.models.ties import settled, with_common_ties
from compressor.recipe import AlignmentOptions, FusionOptions

#: Options of an alignment that make sense only with an anchor.
ANCHORED_ONLY = (
    "tokens",
    "preparation",
    "normalise",
    "mass",
    "relaxation",
    "marginals",
    "heads",
    "query_key",
    "scaling",
)


@torch.no_grad()
def fuse_models(
    teachers: Sequence[NamedModel],
    width: float,
    batches: Iterable[Mapping[str, Tensor]] | None,
    options: FusionOptions | None = None,
    *,
    holdout: float = 0.125,
    seed: int = 0,
    depth: float | int | None = None,
    anchor: NamedModel | None = None,
    mixture: Mixture | None = None,
    progress: OnProgress | None = None,
    streaming: Streaming | None = None,
    precision: torch.dtype | None = None,
    processes: Processes = ALONE,
) -> FusionResult:
    """Fuse teachers into one student of `width` times the residual width of the widest.

    Without an anchor, the teachers' order does not matter.  Half precision is computed in float32.

    Args:
        teachers: (name, model) pairs of one model type and task, left unchanged.
        width: in (0, 1]; unused with an anchor.
        batches: calibration inputs; None uses weights alone.  "labels", if any, serve the choice of the mixture alone.
        holdout: share of samples that choose maps and λ.
        depth: layers, or a share of the deepest teacher's; None keeps all.
        anchor: a narrow model that gives shape and residual coordinates.
        mixture: chosen before; None chooses it here, as the options say.
        progress: callback (fraction, message).
        streaming: how models that are read layer by layer (`compressor.models.folder.streamed_load`) are; its folder
            is the caller's to remove.
        precision: of the student; the teachers' if omitted.
        processes: those that share the calibration samples, of which each gets all; none shares an alignment to an
            anchor. The first one's student counts.

    Raises:
        UserError: no teacher, an unknown option, or too small a width.
        CertificateError: an architecture is not understood.
        UnsupportedError: these teachers cannot be fused yet.
    """
    options, on_progress = options or FusionOptions(), progress or (lambda fraction, message: None)
    if not teachers:
        raise UserError("there is nothing to fuse: name at least one teacher")
    check_residual_option(options, width, depth, anchored=anchor is not None)
    towards_anchor = options.residual in POLICIES.names()
    if not towards_anchor:
        _check_alignment(options.alignment)
    if towards_anchor and anchor is None:
        anchor = teachers[0]
    dtype = precision or precision_of([model for _, model in teachers])
    lines: tuple[str, ...] = ()
    if are_streamed(teachers):
        options, lines = fixed_options(options)
        check_streamable(teachers)
        streaming = streaming or Streaming()
    elif streaming is not None:
        raise UserError("models in memory cannot be read layer by layer: name folders")
    teachers, anchor = _models_alike(teachers, anchor)
    request = _Request(
        teachers, anchor, width, depth, options, holdout, seed, dtype, towards_anchor, mixture, streaming,
        processes if batches is not None else ALONE,
    )  # fmt: skip
    result = _fuse(request, batches, on_progress)
    return replace(result, notes=(*lines, *carry_generation(result.model, teachers)))


@dataclass(frozen=True, eq=False)
class _Request:
    """Checked arguments of `fuse_models`.

    Attributes:
        towards_anchor: there is a residual policy.
    """

    teachers: Sequence[NamedModel]
    anchor: NamedModel | None
    width: float
    depth: float | int | None
    options: FusionOptions
    holdout: float
    seed: int
    dtype: torch.dtype
    towards_anchor: bool
    mixture: Mixture | None
    streaming: Streaming | None
    processes: Processes


def _fuse(request: _Request, batches: Iterable[Batch] | None, on_progress: OnProgress) -> FusionResult:
    """The algorithm."""
    timer, options = StageTimer(), request.options
    on_progress(0.0, "certifying anatomies")
    samples = None if batches is None else _samples_in_single(batches)
    _check_samples(samples or (), request.teachers[0][1].config.model_type)
    for name, model in request.teachers if samples is not None else ():
        check_padding(name, model.config)
    check_projection(request.teachers[0][1], keep_dim=options.keep_dim, texts=samples is not None)
    if samples is not None and request.streaming is None:
        names, models = zip(*request.teachers, strict=True)
        ordered = in_one_order(models, samples)
        request = replace(request, teachers=list(zip(names, ordered, strict=True)))
    # Predictions of all samples would cost a pass over the disk.
    judged = None if request.streaming is not None else samples
    mixture = request.mixture or mixture_of([model for _, model in request.teachers], judged, options)
    samples = None if samples is None else [without_labels(batch) for batch in samples]

    # 1. Certify the teachers and bring them into canonical form; the paper takes weights as they are.
    canonical = not request.towards_anchor or (options.refit and samples is not None)
    group = prepare_teachers(request.teachers, mixture.weights, request.anchor, canonical=canonical)
    calibration = _calibration_set(samples, group, request.holdout, streamed=request.streaming is not None)

    # 2. Choose possible shapes, and the teachers' layers for each layer.
    compared = None if request.streaming is not None else calibration
    assignment = assign_layers(group.everyone, student_depths(group, request.depth), compared)
    specs = specs_for(group, request.width, request.depth, options, assignment, request.anchor)
    precision = torch.promote_types(request.dtype, SINGLE)
    if request.streaming is None:
        device = request.teachers[0][1].device
        candidates = student_candidates(specs, precision, request.seed, device)
    else:
        candidates = [streamed_candidate(specs[0], precision, request.dtype)]
    group = group.with_spans(assignment.spans(group.everyone, candidates[0].anatomy))
    for candidate in candidates:
        set_buffers(candidate.model, group.teachers)
    timer.lap("prepare")

    # 3. Make maps, transport the weights, and refit the student layer by layer.
    context = FusionContext(
        group.teachers, group.anchor, candidates[0], candidates[1:], candidates[0].anatomy, calibration, options,
        coupling_options(options.alignment), on_progress, timer, mixture.mixing, request.streaming,
        request.processes,
    )  # fmt: skip
    built = fuse_towards_anchor(context) if request.towards_anchor else fuse_jointly(context)

    if idle := built.builder.idle:
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        reader = built.candidate.anatomy.model_class
        warnings.warn(f"no input of {reader} reaches {idle[0]}{more}: zero in the student", FusionWarning, stacklevel=2)
    measure_statistics(built.candidate.model, samples or ())

    # 4. Return the student in the teachers' precision, with a report and the maps between hidden states.
    on_progress(1.0, "building the student")
    student = lower(built.candidate.model, request.dtype)
    projection = fit_projection(student, request.teachers[0][1], calibration, keep_dim=options.keep_dim)
    return collect_result(built, student, group, mixture, timer.laps, projection)


def check_residual_option(options: FusionOptions, width: float, depth: float | int | None, *, anchored: bool) -> None:
    """Check that the residual map or policy fits the student's shape.

    Raises:
        UserError: the message says what to do.
    """
    name = options.residual
    known = ("auto", *RESIDUAL_MAPS.names(), *POLICIES.names())
    if name not in known:
        raise UserError(f"unknown residual map or policy '{name}' (known: {', '.join(known)})")
    if name in POLICIES.names() and not anchored and (width != 1 or depth is not None):
        raise UserError(
            f"the residual policy '{name}' aligns to an anchor of the student's shape: name one with --anchor, or "
            f"give --width 1 and no --depth to take the first teacher"
        )


def _check_alignment(alignment: AlignmentOptions) -> None:
    """Refuse options that need a residual policy."""
    for name in ANCHORED_ONLY:
        if getattr(alignment, name) != AlignmentOptions.model_fields[name].default:
            raise UserError(
                f"alignment.{name} is about aligning to an anchor: choose a residual policy with it "
                f"({', '.join(POLICIES.names())})"
            )


def _models_alike(
    teachers: Sequence[NamedModel], anchor: NamedModel | None
) -> tuple[list[NamedModel], NamedModel | None]:
    """Models in float32 whose configs tell their ties, tied alike; a shared anchor stays shared.

    Raises:
        UnsupportedError: as `common_ties`.
    """
    named = [*teachers, *([anchor] if anchor is not None else [])]
    for _, model in named:
        name_architecture(with_embedding(model))
    unique = {id(model): model for _, model in named}
    changed = with_common_ties([settled(without_statistics(in_single(model))) for model in unique.values()])
    alike = dict(zip(unique, changed, strict=True))
    converted = [(name, alike[id(model)]) for name, model in named]
    return converted[: len(teachers)], converted[-1] if anchor is not None else None


def _check_samples(batches: Iterable[Batch], model_type: str) -> None:
    """Refuse inputs without a row for every sample.

    Raises:
        UnsupportedError: patches of all images are in one list.
    """
    for batch in batches:
        sizes = {name: len(value) for name, value in batch.items() if value.dim()}
        if len(set(sizes.values())) > 1:
            counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise UnsupportedError(
                f"calibration inputs of this {model_type} have no row for every sample ({counts}): such models "
                f"can be fused by weights alone, without calibration samples"
            )


def _samples_in_single(batches: Iterable[Batch]) -> list[Batch]:
    samples: list[Batch] = [inputs_in_single(batch) for batch in batches]
    if not samples:
        raise UserError("the calibration data is empty: give at least one batch")
    return samples


def _calibration_set(
    samples: Sequence[Batch] | None, group: TeacherGroup, holdout: float, *, streamed: bool
) -> CalibrationSet | None:
    """Samples in small batches; smaller ones of models that are read layer by layer."""
    if samples is None:
        return None
    teacher, known = group.teachers[0], dict[tuple[Any, ...], int]()

    def count_logits(batch: Batch) -> int:
        shape = tuple((name, value.shape, value.dtype) for name, value in sorted(batch.items()))
        if shape not in known:
            known[shape] = logits_of(teacher.model, without_labels(batch)).numel()
        return known[shape]

    samples = split_large_batches(samples, count_logits)
    if streamed:
        share = MOST_CALL_LOGITS / CALL_TOKENS
        samples = split_large_batches(samples, lambda batch: math.ceil(share * stream_tokens(teacher, [batch])))
    return CalibrationSet.split(samples, holdout)
