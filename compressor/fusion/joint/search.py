"""Choose maps and shape on held-out samples."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from compressor.errors import UserError
from compressor.fusion.build.build_student import build_student
from compressor.fusion.build.finished_layers import FinishedLayers
from compressor.fusion.build.pilots import PilotScorer, scoring_batches
from compressor.fusion.build.student import BuildOptions, BuiltStudent, StudentBuilder
from compressor.fusion.build.tail import needs_descent
from compressor.fusion.calibration.processes import ALONE
from compressor.fusion.context import FusionContext
from compressor.fusion.joint.candidates import MapCandidate, coupled, list_candidates
from compressor.fusion.joint.preference import MARGINS
from compressor.fusion.joint.relatives import WHY_PAIRED, build_nearer, may_pair
from compressor.fusion.joint.trials import TrialSearch
from compressor.fusion.maps.residual import ResidualProblem, energy_left_out
from compressor.fusion.maps.residual_statistics import residual_problems
from compressor.fusion.streaming import fusion_key
from compressor.models.streamed import blocks_of
from compressor.recipe.fusion import PreferName
from compressor.utils.process_memory import return_freed_memory

#: Share of residual energy that common components may leave out before other coordinates and reconstruction are tried.
RESIDUAL_ENERGY_SLACK = 0.02
#: Steps of a reconstruction, and the distance of a pilot up to which it is not worth its time.
RECONSTRUCTION_STEPS, SKIP_RECONSTRUCTION_KL = 600, 0.05

#: What is chosen among shapes, in words.
_PREFERRED: dict[PreferName, str] = {
    "accuracy": "nearest to the ensemble",
    "balanced": f"the fastest shape within {MARGINS['balanced']:g} times the distance of the nearest to the ensemble",
    "speed": "the fastest shape",
}


def fuse_jointly(context: FusionContext) -> BuiltStudent:
    """Build the student of the best maps and shape.

    Raises:
        UserError: an option is unknown.
    """
    context.on_progress(0.05, "measuring residual streams")
    problems, candidates = _problems_and_candidates(context)
    context.timer.lap("statistics")
    options = BuildOptions.from_context(context, candidates[0].inner)
    if context.streaming is not None:
        return _fuse_streamed(context, problems, candidates[0], options)
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
    paired = may_pair(context, chosen)
    if context.processes.shared and (paired or steps or needs_descent(student)):
        # Descents and second students are not shared: the first process makes the student, which alone counts.
        if context.processes.rank:
            return BuiltStudent(context.candidate, student, _choice(context, search, maps, options))
        context = replace(context, processes=ALONE)
    if paired:
        chosen, student = build_nearer(context, search, chosen, options, scorer)
        model = cast(PreTrainedModel, student.model)
        context = context.with_candidate(replace(context.candidate, model=model))
        choice = _choice(context, search, chosen.maps, student.options)
        return BuiltStudent(context.candidate, student, {**choice, "why": f"{choice['why']}; {WHY_PAIRED}"})
    build_student(context, student)
    return BuiltStudent(context.candidate, student, _choice(context, search, maps, options))


def _fuse_streamed(
    context: FusionContext, problems: dict[str, ResidualProblem], maps: MapCandidate, options: BuildOptions
) -> BuiltStudent:
    """Build the only candidate layer by layer; an interrupted build goes on from its last finished layer."""
    streaming = context.streaming
    assert streaming is not None
    residual = maps.make(problems)
    # Large, and not needed any more.
    problems.clear()
    return_freed_memory()
    student = StudentBuilder(context.model, context.anatomy, context.teachers, residual, options)
    if context.processes.shared and needs_descent(student):
        raise UserError(
            f"what a {context.model.config.model_type} has after its layers is fitted by descent, which processes do "
            "not share: launch one"
        )
    with ExitStack() as stack:
        folder = streaming.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compressor-")))
        batches = [] if context.calibration is None else context.calibration.all
        processes = context.processes
        key = fusion_key(context.teachers, context.model, context.options, batches, residual, processes)
        context.on_progress(0.4, "building the student")
        build_student(context, student, finished=FinishedLayers(student, folder, key, processes))
        blocks = blocks_of(context.model)
        assert blocks is not None
        blocks.settle(context.model, blocks.precision)
    choice = {
        **_taken(context, maps, options),
        "candidates": [],
        "shapes": [],
        "why": "the only candidate: models that are read layer by layer are not built twice",
    }
    return BuiltStudent(context.candidate, student, choice)


def _problems_and_candidates(context: FusionContext) -> tuple[dict[str, ResidualProblem], list[MapCandidate]]:
    """Residual problems, and candidates."""
    options, anchored = context.options, context.anchor is not None
    # Reads are measured where coordinates rotate; where norms scale each coordinate, principal components stay.
    rotatable = any(context.anatomy.rotatable(space.name) for space in context.anatomy.residuals)
    evidence = context.has_held_out and context.from_activations and context.streaming is None
    automatic = options.residual == "auto" and not anchored and rotatable and evidence and context.refit
    problems = residual_problems(context, reads=automatic or options.residual == "readers")
    lacking = evidence and any(
        coupled(problem, problems) or energy_left_out(problem) > RESIDUAL_ENERGY_SLACK for problem in problems.values()
    )
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
        weighed = bool(search.context.alternatives) and search.context.has_held_out
        nearest = _PREFERRED[context.options.prefer] if weighed else _PREFERRED["accuracy"]
        why = f"{nearest} of all candidates and shapes tried, each built on a few samples"
    else:
        why = "the only candidate: asked for, or no data to judge others by"
    return {
        **_taken(context, chosen, options),
        "candidates": first if len(first) > 1 else [],
        "shapes": search.report(None) if search.context.alternatives else [],
        "why": why,
    }


def _taken(context: FusionContext, maps: MapCandidate, options: BuildOptions) -> dict[str, Any]:
    """What was taken, as in the report on the choice."""
    return {
        "residual": maps.label,
        "inner": options.inner,
        "attention": context.candidate.heads,
        "refit": options.refit,
        "shares": dict(zip([teacher.name for teacher in context.teachers], maps.shares, strict=True)),
        "weights": {teacher.name: teacher.weight for teacher in context.teachers},
    }
