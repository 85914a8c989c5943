"""Choose maps and shape on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from compressor.fusion.build.layerwise_build import build_student
from compressor.fusion.build.pilots import PilotScorer, scoring_batches
from compressor.fusion.build.student import BuildOptions, BuiltStudent, StudentBuilder
from compressor.fusion.context import FusionContext
from compressor.fusion.joint.candidates import MapCandidate, list_candidates
from compressor.fusion.joint.trials import TrialSearch
from compressor.fusion.maps.residual import ResidualProblem, energy_left_out
from compressor.fusion.maps.residual_statistics import residual_problems

#: Share of residual energy that common components may leave out before other coordinates and reconstruction are tried.
RESIDUAL_ENERGY_SLACK = 0.02
#: Steps of a reconstruction, and the distance of a pilot up to which it is not worth its time.
RECONSTRUCTION_STEPS, SKIP_RECONSTRUCTION_KL = 600, 0.05


def fuse_jointly(context: FusionContext) -> BuiltStudent:
    """Build the student of the best maps and shape.

    Raises:
        UserError: an option is unknown.
    """
    context.on_progress(0.05, "measuring residual streams")
    problems, candidates = _problems_and_candidates(context)
    context.timer.lap("statistics")
    options = BuildOptions.from_context(context, candidates[0].inner)
    scorer = PilotScorer(context.teachers, scoring_batches(context), context.anatomy, context.mixing)
    search = TrialSearch(context, candidates, problems, options, scorer)
    chosen = search.choose(partial(_needs_full_pilot, context, problems))
    context = context.with_candidate(chosen.shape)
    score = search.measured[chosen].score if chosen in search.measured else math.inf
    steps = options.reconstruction_steps
    if context.options.polish == "auto":
        steps = RECONSTRUCTION_STEPS if _worth_reconstruction(context, problems, chosen.maps, score) else 0
    maps = chosen.maps
    options = replace(options, inner=maps.inner, owners=maps.owners, reconstruction_steps=steps)
    context.timer.lap("choose")
    context.on_progress(0.4, "building the student")
    student = StudentBuilder(context.model, context.anatomy, context.teachers, search.residual_maps(maps), options)
    build_student(context, student)
    return BuiltStudent(context.candidate, student, _choice(context, search, maps, options))


def _problems_and_candidates(context: FusionContext) -> tuple[dict[str, ResidualProblem], list[MapCandidate]]:
    """Residual problems, and candidates."""
    options, anchored = context.options, context.anchor is not None
    # Reads are measured where coordinates rotate; where norms scale each coordinate, principal components stay.
    rotatable = any(context.anatomy.rotatable(space.name) for space in context.anatomy.residuals)
    evidence = context.has_held_out and context.from_activations
    automatic = options.residual == "auto" and not anchored and rotatable and evidence and context.refit
    problems = residual_problems(context, reads=automatic or options.residual == "readers")
    lacking = any(energy_left_out(problem) > RESIDUAL_ENERGY_SLACK for problem in problems.values())
    if automatic and not lacking:
        problems = {space: replace(problem, reads=()) for space, problem in problems.items()}
    candidates = list_candidates(
        "anchor" if anchored and options.residual == "auto" else options.residual,
        options.inner,
        context.teachers,
        rotatable=rotatable,
        evidence=evidence,
        alone=isinstance(options.weights, str) and lacking,
        refit=context.refit,
        reads=any(problem.reads for problem in problems.values()),
    )
    return problems, candidates


def _needs_full_pilot(
    context: FusionContext, problems: Mapping[str, ResidualProblem], maps: MapCandidate, score: float
) -> bool:
    """Whether the score of few samples leaves open if layers are reconstructed."""
    return context.options.polish == "auto" and _worth_reconstruction(context, problems, maps, score)


def _worth_reconstruction(
    context: FusionContext, problems: Mapping[str, ResidualProblem], maps: MapCandidate, score: float
) -> bool:
    """Whether the width lacks energy and the pilot is far from the ensemble."""
    possible = context.refit and context.has_held_out and context.options.effort != "fast"
    if not (possible and score > SKIP_RECONSTRUCTION_KL):
        return False
    left_out = [energy_left_out(replace(problem, weights=maps.shares)) for problem in problems.values()]
    return max(left_out, default=0.0) > RESIDUAL_ENERGY_SLACK


def _choice(context: FusionContext, search: TrialSearch, chosen: MapCandidate, options: BuildOptions) -> dict[str, Any]:
    """The report on the choice."""
    first = search.report(search.context.candidate)
    if search.measured:
        why = "nearest to the ensemble of all candidates and shapes tried, each built on a few samples"
    else:
        why = "the only candidate: asked for, or no data to judge others by"
    return {
        "residual": chosen.label,
        "inner": options.inner,
        "attention": context.candidate.heads,
        "refit": options.refit,
        "shares": dict(zip([teacher.name for teacher in context.teachers], chosen.shares, strict=True)),
        "weights": {teacher.name: teacher.weight for teacher in context.teachers},
        "candidates": first if len(first) > 1 else [],
        "shapes": search.report(None) if search.context.alternatives else [],
        "why": why,
    }
