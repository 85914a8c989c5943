"""From teachers to a student: prepare, choose or align, build."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from compressor.anatomy import Anatomy, inspect_config
from compressor.anatomy.hooks import logits_of
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.anchored import POLICIES, align_to_anchor
from compressor.fusion.build.student_layer_maps import layer_maps_of
from compressor.fusion.calibration.batches import hold_out, split_large_batches, without_labels
from compressor.fusion.context import BuiltStudent, FusionContext, OnProgress, StageTimer, StudentCandidate
from compressor.fusion.joint import search
from compressor.fusion.maps.residual import RESIDUAL_MAPS
from compressor.fusion.shape.depth import LayerAssignment, assign_layers, layer_spans
from compressor.fusion.shape.spec import StudentSpec, depth_of, layers_at, student_specs
from compressor.fusion.teacher import (
    FusionTeacher,
    WeightChecksum,
    normalised_weights,
    prepare_teacher,
    weights_checksum,
    with_routes,
)
from compressor.layer_maps import LayerMap
from compressor.models.inputs import name_architecture
from compressor.models.precision import SINGLE, in_single, inputs_in_single, lower, precision_of
from compressor.models.save import config_json
from compressor.models.weights import model_class
from compressor.recipe import FusionOptions
from compressor.utils.logging import quiet_transformers


@dataclass(frozen=True, eq=False)
class FusionResult:
    """A student and how it came about.

    Attributes:
        model: the student, in evaluation mode and the teachers' precision.
        target: its shape, asked and given.
        anatomy: its anatomy.
        report: choices, couplings, fits, seconds; plain values for JSON.
        passages: what carries the teachers' residual streams to the student's, which a finetune can hold it to.
    """

    model: PreTrainedModel
    target: StudentSpec
    anatomy: Anatomy
    report: dict[str, Any]
    passages: tuple[LayerMap, ...] = ()


@torch.no_grad()
def fuse_models(
    teachers: Sequence[tuple[str, PreTrainedModel]],
    width: float,
    batches: Iterable[Mapping[str, Tensor]] | None,
    options: FusionOptions | None = None,
    *,
    holdout: float = 0.125,
    seed: int = 0,
    depth: float | int | None = None,
    anchor: tuple[str, PreTrainedModel] | None = None,
    progress: OnProgress | None = None,
) -> FusionResult:
    """Fuse teachers into one student of `width` times the residual width of the widest.

    Where nothing is aligned to an anchor, the order of the teachers changes no weight of the student.  Teachers in half
    precision are computed with in float32.

    Args:
        teachers: (name, model) pairs of one model type and task; they stay as they are.
        width: share of the residual width, in (0, 1]; without meaning when an anchor gives the shape.
        batches: unlabelled calibration inputs, or None to align the weights alone.
        options: how to fuse.
        holdout: share of the samples that choose map and ridge.
        seed: of every random choice (the student's weights start random, and all are replaced).
        depth: layers of the student, as a number or a share of the deepest teacher's; None for as many.
        anchor: a trained narrow model; the student takes its shape and its residual coordinates.
        progress: told the share done and what is being done.

    Raises:
        UserError: the width leaves no head, an option names nothing known, or there is nothing to fuse.
        CertificateError: an architecture is not understood.
        UnsupportedError: something about these teachers cannot be fused yet.
    """
    options = options or FusionOptions()
    if not teachers:
        raise UserError("there is nothing to fuse: name at least one teacher")
    check_residual_option(options, width, depth, anchored=anchor is not None)
    for _, model in (*teachers, *([anchor] if anchor is not None else [])):
        name_architecture(model)
    policy = options.residual in POLICIES.names()
    if policy and anchor is None:
        anchor = teachers[0]
    dtype = precision_of([model for _, model in teachers])
    single = {id(model): in_single(model) for _, model in (*teachers, *([anchor] if anchor is not None else []))}
    teachers = [(name, single[id(model)]) for name, model in teachers]
    anchor = None if anchor is None else (anchor[0], single[id(anchor[1])])
    tell, clock = progress or (lambda share, stage: None), StageTimer()
    tell(0.0, "certifying anatomies")
    calibration: list[Mapping[str, Tensor]] | None
    calibration = None if batches is None else [inputs_in_single(batch) for batch in batches]
    if calibration is not None and not calibration:
        raise UserError("the calibration data is empty: give at least one batch")
    # The paper takes weights as they are; a refit works on the canonical form.
    as_it_is = policy and not (options.refit and calibration is not None)
    weights = options.weights if options.weights != "auto" else [1.0] * len(teachers)
    given, order = list(zip(teachers, weights, strict=True)), list(range(len(teachers)))
    if anchor is None:
        order.sort(key=lambda k: _rank(teachers[k][1], weights[k]))
    teachers, weights = zip(*(given[k] for k in order), strict=True)
    sources = [
        prepare_teacher(name, model, weight, canonical=not as_it_is)
        for (name, model), weight in zip(teachers, normalised_weights(weights), strict=True)
    ]
    _check(sources)
    guide = None if anchor is None else _guide(anchor, teachers, sources, canonical=not as_it_is)
    held_out = 0
    if calibration is not None:
        first = sources[0].model
        calibration = split_large_batches(calibration, lambda batch: logits_of(first, without_labels(batch)).numel())
        calibration, held_out = hold_out(calibration, holdout)
    stacks = list(zip(*(source.anatomy.stacks for source in sources), strict=True))
    depths = [layers_at(stack, depth) for stack in stacks] if guide is None else _depths(guide)
    everyone = [*sources, *([guide] if guide is not None else [])]
    ends = assign_layers(everyone, depths, calibration)
    forms = [
        StudentCandidate(
            target, _blank(target, torch.promote_types(dtype, SINGLE), seed), inspect_config(target.config)
        )
        for target in _targets(teachers, sources, width, depth, anchor, options.narrowing, ends)
    ]
    clock.lap("prepare")
    found = layer_spans(everyone, forms[0].anatomy, ends)
    routed = [with_routes(source, own) for source, own in zip(sources, found, strict=False)]
    if guide is not None:
        guide = next((r for r, s in zip(routed, sources, strict=True) if s is guide), with_routes(guide, found[-1]))
    job = FusionContext(
        routed, guide, forms[0], forms[1:], forms[0].anatomy, calibration, held_out, options, tell, clock
    )
    made = align_to_anchor.fuse_towards_anchor(job) if policy else search.fuse_jointly(job)
    tell(1.0, "building the student")
    form, report = made.form, _report(made, routed, order, clock.laps)
    carried = layer_maps_of(made.student, order)
    return FusionResult(lower(form.model, dtype), form.target, form.anatomy, report, carried)


def _rank(model: PreTrainedModel, weight: float) -> tuple[WeightChecksum, float]:
    """What teachers are ordered by, so that neither ties nor rounding tell which of them was named first."""
    return weights_checksum(model), weight


def _check(sources: Sequence[FusionTeacher]) -> None:
    """Refuse by name what cannot be fused."""
    first = sources[0]
    for source in sources[1:]:
        ours, theirs = _kinds_of_parameters(first), _kinds_of_parameters(source)
        if ours != theirs:
            odd = sorted(ours ^ theirs)[0]
            raise UserError(f"{first.name} and {source.name} do not have the same parameters: {odd} is in one of them")
        for one, other in zip(first.anatomy.stacks, source.anatomy.stacks, strict=True):
            if one.runs != other.runs and max(one.runs, other.runs) > 1:
                raise UnsupportedError(
                    f"{first.name} runs its shared layer {one.runs} times and {source.name} {other.runs} times: "
                    f"different depths of layers that share their weights cannot be fused"
                )


def _kinds_of_parameters(source: FusionTeacher) -> set[str]:
    """Parameter names without the layers' numbers."""
    return {re.sub(r"\.\d+\.", ".N.", name) for name in source.anatomy.axes}


def _blank(target: StudentSpec, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """A model of the target config; every weight of it will be replaced."""
    with quiet_transformers(errors=False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = model_class(target.config)(copy.deepcopy(target.config))
    return cast(PreTrainedModel, model.to(dtype).eval().requires_grad_(False))


def check_residual_option(options: FusionOptions, width: float, depth: float | int | None, *, anchored: bool) -> None:
    """Refuse a residual map or policy that is not known or does not fit the student's shape.

    Args:
        options: name the map or policy.
        width, depth: of the student.
        anchored: whether an anchor is given.

    Raises:
        UserError: says what to do.
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


def widest(configs: Sequence[PretrainedConfig], anatomies: Sequence[Anatomy]) -> int:
    """Which of the teachers gives the student its config, whatever their order.

    It is the one with the widest residual stream; among equals the one with the widest spaces together, and then the
    one whose config comes last in the alphabet.
    """

    def size(k: int) -> tuple[int, int, str]:
        spaces = anatomies[k].spaces.values()
        return anatomies[k].residual.size, sum(space.size for space in spaces), config_json(configs[k])

    return max(range(len(configs)), key=size)


def _guide(
    anchor: tuple[str, PreTrainedModel],
    teachers: Sequence[tuple[str, PreTrainedModel]],
    sources: Sequence[FusionTeacher],
    *,
    canonical: bool,
) -> FusionTeacher:
    """The anchor as a source; the very one of the teacher that it is, if it takes part itself."""
    for (_, model), source in zip(teachers, sources, strict=True):
        if model is anchor[1]:
            return source
    return prepare_teacher(anchor[0], anchor[1], 0.0, canonical=canonical)


def _depths(source: FusionTeacher) -> list[int]:
    return [len(stack.layers) for stack in source.anatomy.stacks]


def _targets(
    teachers: Sequence[tuple[str, PreTrainedModel]],
    sources: Sequence[FusionTeacher],
    width: float,
    depth: float | int | None,
    anchor: tuple[str, PreTrainedModel] | None,
    narrowing: str,
    ends: LayerAssignment,
) -> list[StudentSpec]:
    """The shapes that the student may take: the anchor's, or those of a share of the widest teacher's width."""
    configs = [model.config for _, model in teachers]
    best = widest(configs, [source.anatomy for source in sources])
    if anchor is not None:
        return [_anchored(anchor[1], teachers[best][1], sources[best].anatomy, width)]
    stacks = zip(*(source.anatomy.stacks for source in sources), strict=True)
    depths = tuple(max(map(depth_of, own)) for own in stacks)
    kept = [None if reach is None else reach[best] for reach in ends]
    return student_specs(configs[best], sources[best].anatomy, width, depth, depths, narrowing, configs, kept)


def _anchored(anchor: PreTrainedModel, teacher: PreTrainedModel, anatomy: Anatomy, asked: float) -> StudentSpec:
    fields = {
        field: (getattr(teacher.config, field), getattr(anchor.config, field))
        for field, meaning in anatomy.fields.items()
        if meaning != "fixed"
    }
    if anchor.config.model_type != teacher.config.model_type:
        raise UserError(f"the anchor is a {anchor.config.model_type} and the teachers are {teacher.config.model_type}")
    given = inspect_config(anchor.config).residual.size / anatomy.residual.size
    return StudentSpec(copy.deepcopy(anchor.config), asked, given, fields)


def _report(
    made: BuiltStudent, sources: Sequence[FusionTeacher], order: Sequence[int], seconds: dict[str, float]
) -> dict[str, Any]:
    """What is said of a fusion, in the user's order of the teachers: source i is the user's teacher order[i]."""
    places = sorted(range(len(order)), key=lambda i: order[i])
    sources = [sources[i] for i in places]
    named = {key: {source.name: made.choice[key][source.name] for source in sources} for key in ("shares", "weights")}

    def by_teacher(noted: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        # Whatever is noted of a space is noted of every source.
        starts = range(0, len(noted), len(order))
        return [
            {"teacher": source.name, **noted[start + i]}
            for start in starts
            for i, source in zip(places, sources, strict=True)
        ]

    return {
        "choice": made.choice | named,
        "certificate": {source.name: source.anatomy.error for source in sources},
        "canonical": made.student.anatomy.canonical,
        "layers": {
            source.name: {layer: list(route.run) for layer, route in source.routes.items()}
            for source in sources
            if source.routes
        },
        "couplings": by_teacher(made.student.couplings),
        "projections": by_teacher(made.student.projections),
        "fits": made.student.fits,
        "polished": made.student.polished if made.student.options.polish else None,
        "unpolished": made.student.unpolished or None,
        "head": made.student.head,
        "seconds": {**seconds, "total": sum(seconds.values())},
    }
