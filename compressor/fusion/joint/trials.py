"""Pilots of maps and shapes, fewer of them on more samples: successive halving.

A trial that is far behind on few samples gets no more of them (Jamieson and Talwalkar, 2016,
https://arxiv.org/abs/1502.07943).  All trials of a round share one walk of the teachers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from compressor.fusion.build.build_student import needs_activations
from compressor.fusion.build.from_weights import build_from_weights
from compressor.fusion.build.layerwise_build import build_layerwise
from compressor.fusion.build.pilots import PilotScorer, pilot_set, within_margin
from compressor.fusion.build.student import BuildOptions, StudentBuilder
from compressor.fusion.calibration.sizes import samples_of_tokens, stream_tokens, widest_input
from compressor.fusion.context import FusionContext, StudentCandidate
from compressor.fusion.joint.candidates import MapCandidate, handicapped
from compressor.fusion.joint.preference import preferred
from compressor.fusion.maps.residual import ResidualMap, ResidualProblem
from compressor.fusion.shape.cost import relative_cost
from compressor.fusion.shape.sizes import Narrowing

#: Tokens of a pilot, and bounds of its samples.
PILOT_TOKENS, FEWEST_PILOT_SAMPLES, MOST_PILOT_SAMPLES = 8192, 16, 64
#: Share of these samples in the first round, and the tokens per input of the widest module that it has at least: fits
#: with fewer say little about what more would give.
FIRST_SHARE, FIRST_TOKENS_PER_INPUT = 0.25, 4
#: Trials of the second round: those at most so many times as far from the ensemble as the best, and so many.
SURVIVING_FACTOR, MOST_SURVIVORS = 1.15, 2
#: The best trials of the default maps, of others, and of each shape meet in the second round if they are at most so
#: many times as far as the best: few samples favour what needs little refit, and hide what is exact.
RIVAL_FACTOR = 3.0
#: A shape that is at most so many times as far with the default maps as the best gets the best maps too.
SHAPE_FACTOR = 4.0


@dataclass(frozen=True)
class Trial:
    """A shape and its maps."""

    shape: StudentCandidate
    maps: MapCandidate

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.shape.heads}, {self.maps.label}"


@dataclass(frozen=True)
class PilotScore:
    """A trial's distance from the ensemble, its samples, and seconds spent on it alone in all rounds."""

    score: float
    samples: int
    seconds: float


@dataclass(eq=False)
class TrialSearch:
    """The search for maps and shape.

    Attributes:
        candidates: the transport default first.
        measured: by trial, what the last round measured.
    """

    context: FusionContext
    candidates: Sequence[MapCandidate]
    problems: Mapping[str, ResidualProblem]
    options: BuildOptions
    scorer: PilotScorer
    measured: dict[Trial, PilotScore] = field(default_factory=dict)
    _maps: dict[MapCandidate, dict[str, ResidualMap]] = field(default_factory=dict)

    def residual_maps(self, candidate: MapCandidate) -> dict[str, ResidualMap]:
        """A candidate's residual maps, made once."""
        if candidate not in self._maps:
            self._maps[candidate] = candidate.make(self.problems)
        return self._maps[candidate]

    def choose(self, undecided: Callable[[MapCandidate, float], bool]) -> Trial:
        """The best trial; the default maps if they are about as good.

        Args:
            undecided: whether the best maps and score need a last round, though no other trial is near.
        """
        trials, few, many = self._first_trials(), *self._samples()
        if len(trials) == 1:
            return trials[0]
        self._measure(trials, few, 0.1)
        self._measure(self._more_trials(), few, 0.2)
        best = min(self.measured, key=self._score)
        near = self._near(best)
        if many > few and (len(near) > 1 or undecided(best.maps, self.measured[best].score)):
            self._measure(near, many, 0.3)
            best = min(near, key=self._score)
        best = self._preferred(best)
        default = Trial(best.shape, self.candidates[0])
        alike = default in self.measured and within_margin(self._score(default), self._score(best))
        return default if alike and self.measured[default].samples == self.measured[best].samples else best

    def report(self, shape: StudentCandidate | None) -> list[dict[str, Any]]:
        """What was measured of one shape, or of all where there are several."""
        measure = self.scorer.measure
        if not self.context.has_held_out:
            measure = measure.replace("held_out", "random_inputs")
        return [
            {
                "candidate": trial.label if shape is None else trial.maps.label,
                measure: scored.score,
                "samples": scored.samples,
                "seconds": round(scored.seconds, 3),
                **self._speed(trial.shape),
            }
            for trial, scored in self.measured.items()
            if shape in (None, trial.shape)
        ]

    def _speed(self, shape: StudentCandidate) -> dict[str, float]:
        """The time of a shape, of the fastest one's; only where there are several."""
        if not self.context.alternatives or not self.costs:
            return {}
        return {"relative_time": round(self.costs[shape] / min(self.costs.values()), 4)}

    def _preferred(self, best: Trial) -> Trial:
        """The trial that accuracy and speed together prefer, of the best's maps, measured on as many samples.

        Pilots of other maps differ in how much a refit of all samples still brings: one of a single teacher looked a
        sixteenth farther than one of both, and was three times as far in the end.
        """
        if not self.context.has_held_out:
            return best
        alike = [
            trial
            for trial, scored in self.measured.items()
            if scored.samples == self.measured[best].samples and trial.maps == best.maps
        ]
        return preferred(alike, self._score, lambda trial: self.costs[trial.shape], self.context.options.prefer)

    @cached_property
    def costs(self) -> dict[StudentCandidate, float]:
        """{shape: relative time of a sample}; empty without data."""
        context = self.context
        if context.calibration is None:
            return {}
        tokens = stream_tokens(context.teachers[0], context.calibration.train)
        shapes = (context.candidate, *context.alternatives)
        return {shape: relative_cost(shape.model, shape.anatomy, tokens) for shape in shapes}

    def _score(self, trial: Trial) -> float:
        return handicapped(self.measured[trial].score, trial.maps, self.candidates[0], self.scorer)

    def _first_trials(self) -> list[Trial]:
        """Trials worth a pilot; one teacher's heads suit its coordinates."""
        context, candidates = self.context, self.candidates
        first, every = context.candidate, [c for c in candidates if c.owners == candidates[0].owners]
        whole = first.spec.narrowing == Narrowing.ALL
        # The coordinates of one teacher have no use for the heads of all.
        maps = every if whole else list(candidates)
        trials = [Trial(first, c) for c in maps]
        for shape in context.alternatives:
            narrowing = shape.spec.narrowing
            if narrowing == Narrowing.SMALLER and whole:
                suited = [c for c in candidates if c not in every]
            else:
                # Transport recovers copied heads; a shape that is far behind with it will not be the best.
                suited = every[:1] if narrowing in ("", Narrowing.FEWER) else every[-1:]
            trials += [Trial(shape, c) for c in suited]
        return trials

    def _more_trials(self) -> list[Trial]:
        """The best maps in other shapes, where these are not far behind with the default ones."""
        best = min(self.measured, key=self._score)
        limit, default = SHAPE_FACTOR * self._score(best), self.candidates[0]
        shapes = [t.shape for t, m in self.measured.items() if t.maps == default and m.score <= limit]
        shapes = [shape for shape in shapes if self._suit(shape, best.maps)]
        return [trial for trial in (Trial(shape, best.maps) for shape in shapes) if trial not in self.measured]

    def _suit(self, shape: StudentCandidate, maps: MapCandidate) -> bool:
        """Whether maps suit a shape: the coordinates of one teacher have no use for the heads of all."""
        return shape.spec.narrowing != Narrowing.ALL or maps.owners == self.candidates[0].owners

    def _near(self, best: Trial) -> list[Trial]:
        """The best trials, and the best of the default maps, of other maps, and of each shape."""
        limit = SURVIVING_FACTOR * self._score(best)
        near = [trial for trial in self.measured if trial == best or self._score(trial) <= limit]
        groups: dict[Any, list[Trial]] = {}
        for trial in self.measured:
            for key in (trial.maps == self.candidates[0], trial.shape):
                groups.setdefault(key, []).append(trial)
        leaders = [min(group, key=self._score) for group in groups.values()]
        rivals = [leader for leader in leaders if self._score(leader) <= RIVAL_FACTOR * self._score(best)]
        return list(dict.fromkeys([*sorted(near, key=self._score)[:MOST_SURVIVORS], *rivals]))

    def _samples(self) -> tuple[int, int]:
        """Samples of the first and second round; 0 where no data is read."""
        context = self.context
        if context.calibration is None or not needs_activations(context):
            return 0, 0
        per_sample = stream_tokens(context.teachers[0], context.calibration.train)
        samples = samples_of_tokens(PILOT_TOKENS, per_sample, FEWEST_PILOT_SAMPLES, MOST_PILOT_SAMPLES)
        fitted = math.ceil(FIRST_TOKENS_PER_INPUT * widest_input(context.anatomy) / per_sample)
        few = min(samples, max(1, round(FIRST_SHARE * samples), fitted))
        return {"fast": (few, few), "normal": (few, samples), "thorough": (samples, samples)}[context.options.effort]

    def _measure(self, trials: Sequence[Trial], samples: int, fraction: float) -> None:
        """Build and score pilots."""
        if not trials:
            return
        self.context.on_progress(fraction, f"choosing among {len(trials)} maps and shapes")
        solved: dict[tuple[Any, ...], Any] = {}
        pilots = [self._pilot(trial, solved) for trial in trials]
        if samples:
            calibration = pilot_set(self.context, samples)
            build_layerwise(pilots, self.context.teachers, calibration, processes=self.context.processes)
        else:
            build_from_weights(pilots, self.context.teachers)
        for trial, pilot in zip(trials, pilots, strict=True):
            # Of all held-out samples, and the same for all, who go on with the same.
            score = self.context.processes.first(self.scorer(pilot))
            before = self.measured.get(trial)
            seconds = pilot.seconds + (0.0 if before is None else before.seconds)
            self.measured[trial] = PilotScore(score if score == score else float("inf"), samples, seconds)

    def _pilot(self, trial: Trial, solved: dict[tuple[Any, ...], Any]) -> StudentBuilder:
        """An unbuilt pilot."""
        # Pursuit changes the ranking little and costs most of a pilot's time. Where heads are left out, heads and units
        # may be copies, of which importance would keep both.
        quick = trial.shape.spec.narrowing != Narrowing.FEWER
        shortened = quick and trial.maps.inner == "select" and self.context.options.inner == "auto"
        # Where teachers disagree, the mean of their logits is not what the ensemble predicts.
        options = replace(
            self.options.of_pilot(head=self.scorer.teachers_disagree),
            inner="importance" if shortened else trial.maps.inner, owners=trial.maps.owners, reconstruction_steps=0,
        )  # fmt: skip
        residual = self.residual_maps(trial.maps)
        return StudentBuilder(
            copy.deepcopy(trial.shape.model), trial.shape.anatomy, self.context.teachers, residual, options,
            reported=False, solved=solved,
        )  # fmt: skip
