"""From teachers to a student: prepare, choose, build."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.anatomy import Anatomy, inspect_config
from compressor.anatomy.resize import model_class, quiet
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.activations import space_grams
from compressor.fusion.choose import PILOT_RIDGE, PILOT_SAMPLES, Candidate, candidates, choose
from compressor.fusion.depth import routes
from compressor.fusion.lockstep import build, build_from_weights
from compressor.fusion.outline import Outline
from compressor.fusion.refit import RIDGES
from compressor.fusion.residual import ResidualMap, ResidualProblem
from compressor.fusion.samples import hold_out, take
from compressor.fusion.sources import Source, along, normalised, prepare
from compressor.fusion.student import BuildOptions, Student
from compressor.fusion.target import Target, depth_of, target_config
from compressor.fusion.weights import space_weight_gram
from compressor.recipe import FusionOptions

#: Calibration samples from which residual maps are made: every layer's tokens count, so few are enough.
RESIDUAL_SAMPLES = 128
#: Told the share done and what is being done.
Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class FusionResult:
    """A student and how it came about.

    Attributes:
        model: the student, in evaluation mode and the teachers' precision.
        target: its shape, asked and given.
        anatomy: its anatomy.
        report: choices, couplings, fits, seconds; plain values for JSON.
    """

    model: PreTrainedModel
    target: Target
    anatomy: Anatomy
    report: dict[str, Any]


@torch.no_grad()
def fuse(
    teachers: Sequence[tuple[str, PreTrainedModel]],
    width: float,
    batches: Iterable[Mapping[str, Tensor]] | None,
    options: FusionOptions | None = None,
    *,
    holdout: float = 0.125,
    seed: int = 0,
    depth: float | int | None = None,
    anchor: tuple[str, PreTrainedModel] | None = None,
    progress: Progress | None = None,
) -> FusionResult:
    """Fuse teachers into one student of `width` times the residual width of the widest.

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
    tell = progress or (lambda share, stage: None)
    clock = _Clock()
    tell(0.0, "certifying anatomies")
    weights = options.weights if options.weights != "auto" else [1.0] * len(teachers)
    sources = [
        prepare(name, model, weight) for (name, model), weight in zip(teachers, normalised(weights), strict=True)
    ]
    _check(sources)
    widest = max(range(len(sources)), key=lambda k: sources[k].anatomy.residual.size)
    if anchor is None:
        stacks = zip(*(source.anatomy.stacks for source in sources), strict=True)
        depths = tuple(max(map(depth_of, own)) for own in stacks)
        target = target_config(teachers[widest][1].config, sources[widest].anatomy, width, depth, depths)
    else:
        target = _anchored(anchor[1], teachers[widest][1], sources[widest].anatomy, width)
    anatomy = inspect_config(target.config)
    model = _blank(target, next(teachers[0][1].parameters()).dtype, seed)
    clock.lap("prepare")

    tell(0.05, "measuring residual streams")
    calibration: list[Mapping[str, Tensor]] | None = None if batches is None else list(batches)
    if calibration is not None and not calibration:
        raise UserError("the calibration data is empty: give at least one batch")
    held_out = 0
    if calibration is not None:
        calibration, held_out = hold_out(calibration, holdout)
    from_activations = calibration is not None and options.features != "weights"
    guide = None if anchor is None else prepare(anchor[0], anchor[1], 0.0)
    found_routes = routes([*sources, *([guide] if guide is not None else [])], anatomy, calibration)
    sources = [along(source, own) for source, own in zip(sources, found_routes, strict=False)]
    guide = None if guide is None else along(guide, found_routes[-1])
    problems = _problems(sources, anatomy, options, calibration if from_activations else None, guide)
    clock.lap("statistics")

    refit = options.refit and calibration is not None
    found = candidates(
        "anchor" if guide is not None and options.residual == "auto" else options.residual,
        options.inner,
        sources,
        rotatable=any(anatomy.rotatable(space.name) for space in anatomy.residuals),
        evidence=held_out > 0 and from_activations,
        alone=options.weights == "auto",
        refit=refit,
    )
    ridges = RIDGES if held_out else (PILOT_RIDGE,)
    plan = BuildOptions(
        inner=found[0].inner,
        cost=options.cost,
        solver=options.solver,
        epsilon=options.epsilon,
        from_weights=not from_activations,
        refit=refit,
        ridges=ridges if options.ridge == "auto" else (float(options.ridge),),
        held_out=held_out,
    )
    measured: list[dict[str, Any]] = []
    chosen = found[0]
    if calibration is not None and len(found) > 1:
        tell(0.1, f"choosing among {len(found)} maps")
        split = len(calibration) - held_out
        pilot, judges = take(calibration[:split], PILOT_SAMPLES), calibration[split:]
        trial = replace(plan, held_out=0, ridges=plan.ridges if len(plan.ridges) == 1 else (PILOT_RIDGE,))

        def sketch(candidate: Candidate, residual: Mapping[str, ResidualMap]) -> Student:
            # What pursuit would choose matters little to the ranking, and costs most of a pilot's time.
            inner = "importance" if candidate.inner == "select" and options.inner == "auto" else candidate.inner
            return Student(copy.deepcopy(model), anatomy, sources, residual, replace(trial, inner=inner))

        chosen, measured = choose(
            found, problems, sketch, sources, pilot, judges,
            progress=lambda share: tell(0.1 + 0.3 * share, f"choosing among {len(found)} maps"),
        )  # fmt: skip
    clock.lap("choose")

    tell(0.4, "building the student")
    plan = replace(plan, inner=chosen.inner)
    student = Student(model, anatomy, sources, chosen.make(problems), plan)
    if calibration is None or not (from_activations or refit):
        build_from_weights([student], sources)
    else:
        build([student], sources, calibration, lambda share: tell(0.4 + 0.6 * share, "building the student"))
    clock.lap("build")
    tell(1.0, "building the student")
    report = _report(chosen, measured, plan, sources, student, clock.laps)
    return FusionResult(model, target, anatomy, report)


def _check(sources: Sequence[Source]) -> None:
    """Refuse by name what cannot be fused."""
    if not sources:
        raise UserError("there is nothing to fuse: name at least one teacher")
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


def _kinds_of_parameters(source: Source) -> set[str]:
    """Parameter names without the layers' numbers."""
    return {re.sub(r"\.\d+\.", ".N.", name) for name in source.anatomy.axes}


def _blank(target: Target, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """A model of the target config; every weight of it will be replaced."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(target.config)(copy.deepcopy(target.config))
    return cast(PreTrainedModel, model.to(dtype).eval().requires_grad_(False))


def _problems(
    sources: Sequence[Source],
    anatomy: Anatomy,
    options: FusionOptions,
    batches: Sequence[Mapping[str, Tensor]] | None,
    guide: Source | None,
) -> dict[str, ResidualProblem]:
    """Joint statistics of every residual and embedding space; an anchor's coordinates stand behind the teachers'."""
    models = [*sources, *([guide] if guide is not None else [])]
    wide = Outline(anatomy).wide
    if batches is None:
        grams = {space: space_weight_gram(models, space) for space in wide}
    else:
        grams = space_grams(models, wide, take(batches, RESIDUAL_SAMPLES))
    return {
        space: ResidualProblem(
            gram=grams[space],
            sizes=[source.space(space).size for source in sources],
            weights=[source.weight for source in sources],
            m=anatomy.spaces[space].size,
            centred=space in anatomy.centred and anatomy.rotatable(space),
            rotatable=anatomy.rotatable(space),
            cost=options.cost,
            solver=options.solver,
            epsilon=options.epsilon,
        )
        for space in wide
    }


def _anchored(anchor: PreTrainedModel, teacher: PreTrainedModel, anatomy: Anatomy, asked: float) -> Target:
    fields = {
        field: (getattr(teacher.config, field), getattr(anchor.config, field))
        for field, meaning in anatomy.fields.items()
        if meaning != "fixed"
    }
    if anchor.config.model_type != teacher.config.model_type:
        raise UserError(f"the anchor is a {anchor.config.model_type} and the teachers are {teacher.config.model_type}")
    given = inspect_config(anchor.config).residual.size / anatomy.residual.size
    return Target(copy.deepcopy(anchor.config), asked, given, fields)


def _report(
    chosen: Candidate,
    measured: list[dict[str, Any]],
    plan: BuildOptions,
    sources: Sequence[Source],
    student: Student,
    seconds: dict[str, float],
) -> dict[str, Any]:
    if measured:
        why = f"least KL to the ensemble on held-out samples among {len(measured)} candidates built on a few"
    else:
        why = "the only candidate: asked for, or no data to judge others by"
    return {
        "choice": {
            "residual": chosen.label,
            "inner": plan.inner,
            "refit": plan.refit,
            "shares": dict(zip([source.name for source in sources], chosen.shares, strict=True)),
            "weights": {source.name: source.weight for source in sources},
            "candidates": measured,
            "why": why,
        },
        "certificate": {source.name: source.anatomy.error for source in sources},
        "canonical": student.anatomy.canonical,
        "layers": {
            source.name: {layer: list(route.run) for layer, route in source.routes.items()}
            for source in sources
            if source.routes
        },
        "couplings": student.couplings,
        "fits": student.fits,
        "seconds": {**seconds, "total": sum(seconds.values())},
    }


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = now - self._last
        self._last = now
