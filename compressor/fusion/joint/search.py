"""Choose maps and shape on held-out samples."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from compressor.fusion.build.layerwise_build import (
    build_from_weights,
    build_layerwise,
    build_student,
    needs_activations,
)
from compressor.fusion.build.pilots import PilotScorer, pilot_set, scoring_batches, within_margin
from compressor.fusion.build.student import BuildOptions, BuiltStudent, StudentBuilder
from compressor.fusion.context import FusionContext, StudentCandidate
from compressor.fusion.joint.candidates import MapCandidate, choose_candidate, handicapped, list_candidates
from compressor.fusion.maps.residual import ResidualMap, ResidualProblem, energy_left_out
from compressor.fusion.maps.residual_statistics import residual_problems, with_reads
from compressor.fusion.shape.width import Narrowing

#: Share of residual energy that common components may leave out before other coordinates and reconstruction are tried.
RESIDUAL_ENERGY_SLACK = 0.02
#: Steps of a reconstruction, and the distance of a pilot up to which it is not worth its time.
RECONSTRUCTION_STEPS, SKIP_RECONSTRUCTION_KL = 600, 0.05
#: A shape gets no further pilots if its first is so many times as far from the ensemble as the best.
PRUNE_SHAPE_FACTOR = 10


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
    search = _Search(context, candidates, problems, options, scorer)
    chosen, map_scores = search.choose_maps()
    context, chosen, shape_scores = search.choose_shape(chosen, map_scores)
    steps = options.reconstruction_steps
    if context.options.polish == "auto":
        steps = _reconstruction_steps(context, chosen, problems, [*map_scores, *shape_scores])
    options = replace(options, inner=chosen.inner, owners=chosen.owners, reconstruction_steps=steps)
    context.timer.lap("choose")
    context.on_progress(0.4, "building the student")
    student = StudentBuilder(context.model, context.anatomy, context.teachers, chosen.make(problems), options)
    build_student(context, student)
    return BuiltStudent(context.candidate, student, _choice(context, chosen, map_scores, shape_scores, options))


def _problems_and_candidates(context: FusionContext) -> tuple[dict[str, ResidualProblem], list[MapCandidate]]:
    """Residual problems, and candidates."""
    options, anchored = context.options, context.anchor is not None
    problems = residual_problems(context)
    lacking = any(energy_left_out(problem) > RESIDUAL_ENERGY_SLACK for problem in problems.values())
    evidence = context.has_held_out and context.from_activations
    # Reads are measured where coordinates rotate; where norms scale each coordinate, principal components stay.
    rotatable = any(context.anatomy.rotatable(space.name) for space in context.anatomy.residuals)
    automatic = options.residual == "auto" and not anchored and rotatable and lacking and evidence and context.refit
    if automatic or (options.residual == "readers" and context.from_activations):
        problems = with_reads(context, problems)
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


def _reconstruction_steps(
    context: FusionContext,
    chosen: MapCandidate,
    problems: Mapping[str, ResidualProblem],
    scores: Sequence[Mapping[str, Any]],
) -> int:
    """Automatic steps; 0 where pilots are close to the ensemble."""
    left_out = [energy_left_out(replace(problem, weights=chosen.shares)) for problem in problems.values()]
    closest = min((value for entry in scores for value in entry.values() if isinstance(value, float)), default=math.inf)
    worthwhile = max(left_out, default=0.0) > RESIDUAL_ENERGY_SLACK and closest > SKIP_RECONSTRUCTION_KL
    return RECONSTRUCTION_STEPS if context.refit and context.has_held_out and worthwhile else 0


@dataclass(frozen=True, eq=False)
class _Search:
    """Pilots of candidates in possible shapes.

    Attributes:
        candidates: the transport default first.
    """

    context: FusionContext
    candidates: Sequence[MapCandidate]
    problems: Mapping[str, ResidualProblem]
    options: BuildOptions
    scorer: PilotScorer

    def choose_maps(self) -> tuple[MapCandidate, list[dict[str, Any]]]:
        """The first shape's best candidate, and scores."""
        candidates, context = self.candidates, self.context
        if context.candidate.spec.narrowing == Narrowing.ALL:
            # The coordinates of one teacher have no use for the heads of all.
            candidates = [candidate for candidate in candidates if candidate.owners == candidates[0].owners]
        if context.calibration is None or len(candidates) == 1:
            return candidates[0], []
        message = f"choosing among {len(candidates)} maps"
        context.on_progress(0.1, message)
        return choose_candidate(
            candidates, self.problems, partial(self._pilot, context), context.teachers, pilot_set(context),
            self.scorer, on_progress=lambda fraction: context.on_progress(0.1 + 0.3 * fraction, message),
        )  # fmt: skip

    def choose_shape(
        self, chosen: MapCandidate, map_scores: Sequence[Mapping[str, Any]]
    ) -> tuple[FusionContext, MapCandidate, list[dict[str, Any]]]:
        """The best shape and maps, and scores; other shapes may prefer other maps."""
        context, default = self.context, self.candidates[0]
        if not context.alternatives:
            return context, chosen, []
        context.on_progress(0.38, f"choosing among {1 + len(context.alternatives)} shapes")
        tried = list(dict.fromkeys([default, chosen]))
        # The first shape has been scored already.
        known = {entry["candidate"]: entry[self.scorer.measure] for entry in map_scores}
        scores = {(context.candidate, c): known[c.label] for c in tried if c.label in known}
        for shape in (context.candidate, *context.alternatives):
            self._score_shape(shape, tried, scores)
        shape, best = min(scores, key=lambda pair: handicapped(scores[pair], pair[1], default, self.scorer))
        if within_margin(scores.get((shape, default), math.inf), scores[shape, best]):
            best = default
        measure = (
            self.scorer.measure if context.has_held_out else self.scorer.measure.replace("held_out", "random_inputs")
        )
        report = [{"candidate": f"{s.heads}, {c.label}", measure: score} for (s, c), score in scores.items()]
        return context.with_candidate(shape), best, report

    def _score_shape(
        self,
        shape: StudentCandidate,
        tried: list[MapCandidate],
        scores: dict[tuple[StudentCandidate, MapCandidate], float],
    ) -> None:
        """Score a shape's candidates."""
        missing = [c for c in self._suited(shape, tried) if (shape, c) not in scores]
        rounds = [missing[:1], missing[1:]] if shape.spec.narrowing == Narrowing.FEWER else [missing]
        for candidates in rounds:
            pilots = self._pilots(self.context.with_candidate(shape), candidates)
            scores |= {(shape, c): self.scorer(pilot) for c, pilot in zip(candidates, pilots, strict=True)}
            # Transport recovers copied heads; a shape that is far behind with it will not be the best.
            if candidates and scores[shape, candidates[0]] > PRUNE_SHAPE_FACTOR * min(scores.values()):
                break

    def _suited(self, shape: StudentCandidate, tried: list[MapCandidate]) -> Sequence[MapCandidate]:
        """Candidates worth a pilot; one teacher's heads suit its coordinates."""
        narrowing = shape.spec.narrowing
        if narrowing == Narrowing.SMALLER and self.context.candidate.spec.narrowing == Narrowing.ALL:
            return [c for c in self.candidates if c.owners != self.candidates[0].owners]
        return tried if narrowing in ("", Narrowing.FEWER) else tried[-1:]

    def _pilots(self, context: FusionContext, candidates: Sequence[MapCandidate]) -> list[StudentBuilder]:
        """Built pilots."""
        # Where heads are left out, others may be copies, of which importance would keep both.
        quick = context.candidate.spec.narrowing != Narrowing.FEWER
        pilots = [self._pilot(context, c, c.make(self.problems), quick=quick) for c in candidates]
        if pilots and needs_activations(context):
            build_layerwise(pilots, context.teachers, pilot_set(context))
        else:
            build_from_weights(pilots, context.teachers)
        return pilots

    def _pilot(
        self,
        context: FusionContext,
        candidate: MapCandidate,
        residual: Mapping[str, ResidualMap],
        *,
        quick: bool = True,
    ) -> StudentBuilder:
        """An unbuilt pilot."""
        # Pursuit changes the ranking little and costs most of a pilot's time.
        shortened = quick and candidate.inner == "select" and context.options.inner == "auto"
        inner = "importance" if shortened else candidate.inner
        # Where teachers disagree, the mean of their logits is not what the ensemble predicts.
        apart = self.scorer.teachers_disagree
        options = replace(
            self.options.of_pilot(head=apart), inner=inner, owners=candidate.owners, reconstruction_steps=0
        )
        model = copy.deepcopy(context.model)
        return StudentBuilder(model, context.anatomy, context.teachers, residual, options, reported=False)


def _choice(
    context: FusionContext,
    chosen: MapCandidate,
    map_scores: list[dict[str, Any]],
    shape_scores: list[dict[str, Any]],
    options: BuildOptions,
) -> dict[str, Any]:
    """The report on the choice."""
    if map_scores or shape_scores:
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
        "candidates": map_scores,
        "shapes": shape_scores,
        "why": why,
    }
