"""The product's own way: residual map and inner maps are chosen on held-out samples, and no anchor is needed."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from compressor.errors import UserError
from compressor.fusion.anchored import POLICIES
from compressor.fusion.build.layerwise_build import build, build_from_weights
from compressor.fusion.build.reconstruction import reconstruction_batches
from compressor.fusion.build.ridge import RIDGES
from compressor.fusion.build.student import BuildOptions, StudentBuilder
from compressor.fusion.calibration.batches import take_samples
from compressor.fusion.context import BuiltStudent, FusionContext, StudentCandidate
from compressor.fusion.joint.candidates import (
    PILOT_RIDGE,
    PILOT_SAMPLES,
    Candidate,
    PilotScorer,
    choose_candidate,
    list_candidates,
    within_margin,
)
from compressor.fusion.maps.residual import ResidualMap, ResidualProblem, energy_left_out
from compressor.fusion.maps.residual_statistics import residual_problems, with_reads
from compressor.fusion.shape.width import ALL, FEWER, SMALLER
from compressor.models.inputs import dummy_inputs
from compressor.recipe import AlignmentOptions

#: The λ of pilots, where there is a choice.
PILOT_RIDGES = (PILOT_RIDGE,)
#: Share of the residual energy that common components may leave out before one teacher's coordinates are tried too and
#: components are chosen by what is read, and that the chosen ones may before layers are polished.
RESIDUAL_ENERGY_SLACK = 0.02
#: Steps of a polish, and the distance of a pilot from the ensemble up to which it is not worth its time.
RECONSTRUCTION_STEPS, SKIP_RECONSTRUCTION_KL = 600, 0.05
#: A shape whose first pilot is so many times as far from the ensemble as the best one gets no further pilots.
PRUNE_SHAPE_FACTOR = 10
#: Random inputs that judge shapes where there is no data.
RANDOM_SAMPLES = 16
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


def fuse_jointly(job: FusionContext) -> BuiltStudent:
    """Make the student of the residual map and inner map that come closest to the ensemble.

    Raises:
        UserError: an option names nothing known, or needs an anchor.
    """
    options = job.options
    _check(options.alignment)
    job.tell(0.05, "measuring residual streams")
    problems = residual_problems(job)
    lacking = any(energy_left_out(problem) > RESIDUAL_ENERGY_SLACK for problem in problems.values())
    evidence = job.held_out > 0 and job.from_activations
    # Measured where coordinates rotate; behind norms that scale them one by one principal components stay.
    rotatable = any(job.anatomy.rotatable(space.name) for space in job.anatomy.residuals)
    by_itself = options.residual == "auto" and job.guide is None and rotatable and lacking and evidence and job.refit
    if by_itself or (options.residual == "readers" and job.from_activations):
        problems = with_reads(job, problems)
    job.clock.lap("statistics")
    found = list_candidates(
        "anchor" if job.guide is not None and options.residual == "auto" else options.residual,
        options.inner,
        job.sources,
        rotatable=rotatable,
        evidence=evidence,
        alone=options.weights == "auto" and lacking,
        refit=job.refit,
        reads=any(problem.reads for problem in problems.values()),
    )
    plan = build_options(job, found[0].inner)
    # Whose coordinates are one teacher's alone has no use for the heads of all.
    common = [one for one in found if one.owners == found[0].owners]
    judge = PilotScorer(job.sources, scoring_batches(job), job.anatomy)
    chosen, measured = _choose(job, common if job.form.target.narrowing == ALL else found, problems, plan, judge)
    job, chosen, forms = _shaped(job, found, chosen, problems, plan, judge, measured)
    steps = plan.polish if job.options.polish != "auto" else _polish(job, chosen, problems, [*measured, *forms])
    plan = replace(plan, inner=chosen.inner, owners=chosen.owners, polish=steps)
    job.clock.lap("choose")
    job.tell(0.4, "building the student")
    student = StudentBuilder(job.model, job.anatomy, job.sources, chosen.make(problems), plan)
    build_student(job, student)
    return BuiltStudent(job.form, student, _choice(job, chosen, measured, forms, plan))


def _polish(
    job: FusionContext,
    chosen: Candidate,
    problems: Mapping[str, ResidualProblem],
    measured: Sequence[Mapping[str, Any]],
) -> int:
    """Steps of the polish: where pilots are near to the ensemble, the linear refit leaves little to gain."""
    left = [energy_left_out(replace(problem, weights=chosen.shares)) for problem in problems.values()]
    nearest = min((value for one in measured for value in one.values() if isinstance(value, float)), default=math.inf)
    far = max(left, default=0.0) > RESIDUAL_ENERGY_SLACK and nearest > SKIP_RECONSTRUCTION_KL
    return RECONSTRUCTION_STEPS if job.refit and job.held_out and far else 0


def build_options(job: FusionContext, inner: str) -> BuildOptions:
    """How the student of a job is built with an inner map."""
    options, ridges = job.options, RIDGES if job.held_out else PILOT_RIDGES
    return BuildOptions(
        inner=inner,
        cost=options.alignment.cost,
        solver=options.alignment.solver,
        epsilon=options.alignment.epsilon,
        from_weights=not job.from_activations,
        refit=job.refit,
        ridges=ridges if options.ridge == "auto" else (float(options.ridge),),
        held_out=job.held_out,
        polish=options.polish if job.refit and options.polish != "auto" else 0,
    )


def build_student(job: FusionContext, student: StudentBuilder, *, begun: float = 0.4, aligned: bool = False) -> None:
    """Build with or without a walk of the teachers, whichever is needed.

    Args:
        job: what it is made from.
        student: to be built.
        begun: the share of the job that is done.
        aligned: whether its maps are made without a walk.
    """

    def progress(share: float) -> None:
        job.tell(begun + (1 - begun) * share, "building the student")

    if not _needs_walk(job, aligned):
        build_from_weights([student], job.sources, progress)
    else:
        batches = job.calibration or []
        if student.options.polish:
            batches, held_out = reconstruction_batches(batches, job.held_out)
            student.options = replace(student.options, held_out=held_out)
        build([student], job.sources, batches, progress)
    job.clock.lap("build")


def _needs_walk(job: FusionContext, aligned: bool = False) -> bool:
    """Whether the teachers have to be run: for the refit, or to compare what is not aligned already."""
    return job.calibration is not None and (job.refit or (job.from_activations and not aligned))


def _check(alignment: AlignmentOptions) -> None:
    for name in ANCHORED_ONLY:
        if getattr(alignment, name) != AlignmentOptions.model_fields[name].default:
            raise UserError(
                f"alignment.{name} is about aligning to an anchor: choose a residual policy with it "
                f"({', '.join(POLICIES.names())})"
            )


def _choose(
    job: FusionContext,
    found: list[Candidate],
    problems: Mapping[str, ResidualProblem],
    plan: BuildOptions,
    judge: PilotScorer,
) -> tuple[Candidate, list[dict[str, Any]]]:
    """The candidate whose pilot is nearest to the ensemble, and what was measured."""
    if job.calibration is None or len(found) == 1:
        return found[0], []
    said = f"choosing among {len(found)} maps"
    job.tell(0.1, said)
    return choose_candidate(
        found, problems, partial(_pilot, job, plan), job.sources, pilot_batches(job), judge,
        progress=lambda share: job.tell(0.1 + 0.3 * share, said),
    )  # fmt: skip


def _shaped(
    job: FusionContext,
    found: Sequence[Candidate],
    chosen: Candidate,
    problems: Mapping[str, ResidualProblem],
    plan: BuildOptions,
    judge: PilotScorer,
    measured: Sequence[Mapping[str, Any]],
) -> tuple[FusionContext, Candidate, list[dict[str, Any]]]:
    """The job with the shape whose pilots come nearest to the ensemble, the map to go with it, and what was measured.

    What is best in one shape need not be best in another: where heads are left whole the transport default is tried
    beside the chosen map, and where there are as many as one teacher has, one teacher's coordinates.
    """
    if not job.others:
        return job, chosen, []
    job.tell(0.38, f"choosing among {1 + len(job.others)} shapes")
    tried = list(dict.fromkeys([found[0], chosen]))
    # The choice of the residual map has measured the first shape already.
    known = {one["candidate"]: one[judge.measure] for one in measured}
    scores = {(job.form, one): known[one.label] for one in tried if one.label in known}
    for form in (job.form, *job.others):
        among = _suited(form, job, tried, found)
        missing = [one for one in among if (form, one) not in scores]
        rounds = [missing[:1], missing[1:]] if form.target.narrowing == FEWER else [missing]
        for some in rounds:
            made = _pilots(job.of(form), some, problems, plan)
            scores |= {(form, one): judge(student) for one, student in zip(some, made, strict=True)}
            # Transport gives back what was copied; a shape that is far behind with it will not be the best.
            if some and scores[form, some[0]] > PRUNE_SHAPE_FACTOR * min(scores.values()):
                break
    form, best = min(scores, key=lambda pair: scores[pair])
    if within_margin(scores.get((form, tried[0]), math.inf), scores[form, best]):
        best = tried[0]
    measure = judge.measure if job.held_out else judge.measure.replace("held_out", "random_inputs")
    said = [{"candidate": f"{form.heads}, {one.label}", measure: score} for (form, one), score in scores.items()]
    return job.of(form), best, said


def _suited(
    form: StudentCandidate, job: FusionContext, tried: list[Candidate], found: Sequence[Candidate]
) -> list[Candidate]:
    """The candidates worth a pilot in a shape: as many heads as one teacher has suit one teacher's coordinates."""
    if form.target.narrowing == SMALLER and job.form.target.narrowing == ALL:
        return [one for one in found if one.owners != found[0].owners]
    return tried if form.target.narrowing in ("", FEWER) else tried[-1:]


def _pilots(
    job: FusionContext, found: Sequence[Candidate], problems: Mapping[str, ResidualProblem], plan: BuildOptions
) -> list[StudentBuilder]:
    """Built pilots of a job's shape."""
    # Where heads are left out, others may be copies of each other, and of units importance would keep both copies.
    quick = job.form.target.narrowing != FEWER
    made = [_pilot(job, plan, candidate, candidate.make(problems), quick=quick) for candidate in found]
    if made and _needs_walk(job):
        build(made, job.sources, pilot_batches(job))
    else:
        build_from_weights(made, job.sources)
    return made


def _pilot(
    job: FusionContext,
    plan: BuildOptions,
    candidate: Candidate,
    residual: Mapping[str, ResidualMap],
    *,
    quick: bool = True,
) -> StudentBuilder:
    """An unbuilt student that tells how good a candidate is."""
    # What pursuit would choose matters little to the ranking, and costs most of a pilot's time.
    shortened = quick and candidate.inner == "select" and job.options.inner == "auto"
    inner = "importance" if shortened else candidate.inner
    ridges = plan.ridges if len(plan.ridges) == 1 else PILOT_RIDGES
    trial = replace(plan, held_out=0, ridges=ridges, inner=inner, owners=candidate.owners, polish=0)
    return StudentBuilder(copy.deepcopy(job.model), job.anatomy, job.sources, residual, trial, noted=False)


def pilot_batches(job: FusionContext, samples: int = PILOT_SAMPLES) -> Sequence[Mapping[str, Tensor]]:
    """Samples that pilots are built on."""
    assert job.calibration is not None
    return take_samples(job.calibration[: len(job.calibration) - job.held_out], samples)


def scoring_batches(job: FusionContext) -> Sequence[Mapping[str, Tensor]]:
    """Samples that judge pilots: those held out, or random inputs where there are none."""
    if job.calibration is not None and job.held_out:
        return job.calibration[len(job.calibration) - job.held_out :]
    dtype = next(job.model.parameters()).dtype
    return [dummy_inputs(job.model.config, RANDOM_SAMPLES, dtype=dtype)]


def _choice(
    job: FusionContext,
    chosen: Candidate,
    measured: list[dict[str, Any]],
    forms: list[dict[str, Any]],
    plan: BuildOptions,
) -> dict[str, Any]:
    if measured or forms:
        why = "nearest to the ensemble of all candidates and shapes tried, each built on a few samples"
    else:
        why = "the only candidate: asked for, or no data to judge others by"
    return {
        "residual": chosen.label,
        "inner": plan.inner,
        "attention": job.form.heads,
        "refit": plan.refit,
        "shares": dict(zip([source.name for source in job.sources], chosen.shares, strict=True)),
        "weights": {source.name: source.weight for source in job.sources},
        "candidates": measured,
        "shapes": forms,
        "why": why,
    }
