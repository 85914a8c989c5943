"""The product's own way: residual map and inner maps are chosen on held-out samples, and no anchor is needed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compressor.errors import UserError
from compressor.fusion.activations import space_grams
from compressor.fusion.anchored import POLICIES
from compressor.fusion.choose import PILOT_RIDGE, PILOT_SAMPLES, Candidate, candidates, choose
from compressor.fusion.job import Job, Made
from compressor.fusion.lockstep import build, build_from_weights
from compressor.fusion.outline import Outline
from compressor.fusion.refit import RIDGES
from compressor.fusion.residual import ResidualMap, ResidualProblem
from compressor.fusion.samples import take
from compressor.fusion.student import BuildOptions, Student
from compressor.fusion.weights import space_weight_gram
from compressor.recipe import AlignmentOptions

#: Calibration samples from which residual maps are made: every layer's tokens count, so few are enough.
RESIDUAL_SAMPLES = 128
#: Options of an alignment that make sense only where there is an anchor to align to.
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


def make(job: Job) -> Made:
    """Make the student of the residual map and inner map that come closest to the ensemble.

    Raises:
        UserError: an option names nothing known, or needs an anchor.
    """
    options = job.options
    _check(options.alignment)
    job.tell(0.05, "measuring residual streams")
    problems = _problems(job)
    job.clock.lap("statistics")
    found = candidates(
        "anchor" if job.guide is not None and options.residual == "auto" else options.residual,
        options.inner,
        job.sources,
        rotatable=any(job.anatomy.rotatable(space.name) for space in job.anatomy.residuals),
        evidence=job.held_out > 0 and job.from_activations,
        alone=options.weights == "auto",
        refit=job.refit,
    )
    plan = build_options(job, found[0].inner)
    chosen, measured = _choose(job, found, problems, plan)
    job.clock.lap("choose")
    job.tell(0.4, "building the student")
    plan = replace(plan, inner=chosen.inner)
    student = Student(job.model, job.anatomy, job.sources, chosen.make(problems), plan)
    build_student(job, student)
    return Made(student, _choice(job, chosen, measured, plan))


def build_options(job: Job, inner: str) -> BuildOptions:
    """How the student of a job is built with an inner map."""
    options, ridges = job.options, RIDGES if job.held_out else (PILOT_RIDGE,)
    return BuildOptions(
        inner=inner,
        cost=options.alignment.cost,
        solver=options.alignment.solver,
        epsilon=options.alignment.epsilon,
        from_weights=not job.from_activations,
        refit=job.refit,
        ridges=ridges if options.ridge == "auto" else (float(options.ridge),),
        held_out=job.held_out,
    )


def build_student(job: Job, student: Student) -> None:
    """Build with or without a walk of the teachers, whichever is needed."""
    given = not student.residual.keys().isdisjoint(f"{space}/query" for space in job.anatomy.spaces)
    if job.calibration is None or not (job.refit or (job.from_activations and not given)):
        build_from_weights([student], job.sources)
    else:
        build(
            [student], job.sources, job.calibration, lambda share: job.tell(0.4 + 0.6 * share, "building the student")
        )
    job.clock.lap("build")


def _check(alignment: AlignmentOptions) -> None:
    for name in ANCHORED_ONLY:
        if getattr(alignment, name) != AlignmentOptions.model_fields[name].default:
            raise UserError(
                f"alignment.{name} is about aligning to an anchor: choose a residual policy with it "
                f"({', '.join(POLICIES.names())})"
            )


def _problems(job: Job) -> dict[str, ResidualProblem]:
    """Joint statistics of every residual and embedding space; an anchor's coordinates stand behind the teachers'."""
    models = [*job.sources, *([job.guide] if job.guide is not None else [])]
    wide = Outline(job.anatomy).wide
    if job.calibration is None or not job.from_activations:
        grams = {space: space_weight_gram(models, space) for space in wide}
    else:
        grams = space_grams(models, job.anatomy, wide, take(job.calibration, RESIDUAL_SAMPLES))
    alignment = job.options.alignment
    return {
        space: ResidualProblem(
            gram=grams[space],
            sizes=[source.space(space).size for source in job.sources],
            weights=[source.weight for source in job.sources],
            m=job.anatomy.spaces[space].size,
            centred=space in job.anatomy.centred and job.anatomy.rotatable(space),
            rotatable=job.anatomy.rotatable(space),
            cost=alignment.cost,
            solver=alignment.solver,
            epsilon=alignment.epsilon,
        )
        for space in wide
    }


def _choose(
    job: Job, found: list[Candidate], problems: Mapping[str, ResidualProblem], plan: BuildOptions
) -> tuple[Candidate, list[dict[str, Any]]]:
    """The candidate whose pilot is nearest to the ensemble, and what was measured."""
    if job.calibration is None or len(found) == 1:
        return found[0], []
    said = f"choosing among {len(found)} maps"
    job.tell(0.1, said)
    split = len(job.calibration) - job.held_out
    pilot, judges = take(job.calibration[:split], PILOT_SAMPLES), job.calibration[split:]
    trial = replace(plan, held_out=0, ridges=plan.ridges if len(plan.ridges) == 1 else (PILOT_RIDGE,))

    def sketch(candidate: Candidate, residual: Mapping[str, ResidualMap]) -> Student:
        # What pursuit would choose matters little to the ranking, and costs most of a pilot's time.
        inner = "importance" if candidate.inner == "select" and job.options.inner == "auto" else candidate.inner
        return Student(copy.deepcopy(job.model), job.anatomy, job.sources, residual, replace(trial, inner=inner))

    return choose(
        found, problems, sketch, job.sources, pilot, judges,
        progress=lambda share: job.tell(0.1 + 0.3 * share, said),
    )  # fmt: skip


def _choice(job: Job, chosen: Candidate, measured: list[dict[str, Any]], plan: BuildOptions) -> dict[str, Any]:
    if measured:
        why = f"least KL to the ensemble on held-out samples among {len(measured)} candidates built on a few"
    else:
        why = "the only candidate: asked for, or no data to judge others by"
    return {
        "residual": chosen.label,
        "inner": plan.inner,
        "refit": plan.refit,
        "shares": dict(zip([source.name for source in job.sources], chosen.shares, strict=True)),
        "weights": {source.name: source.weight for source in job.sources},
        "candidates": measured,
        "why": why,
    }
