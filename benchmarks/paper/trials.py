"""What a cell of a table measures: each trial makes a model, or takes one, and scores it on test data."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from benchmarks.common.results import Figures
from benchmarks.common.setting import Arena, Named
from compressor.anatomy import apply, inspect_config
from compressor.anatomy.certificate import random_permutations
from compressor.anatomy.hooks import logits_of
from compressor.errors import CouplingError
from compressor.fusion import POLICIES, FusionResult, fuse_models
from compressor.recipe import AlignmentOptions, FinetuneOptions, FusionOptions

#: Regularisations that soft rows choose from, on validation data, with the first seed.
EPSILONS = (0.003, 0.01, 0.03, 0.1)
#: Learning rates that every finetuned row chooses from, on validation data, with the first seed.
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
#: Share of the finetune's steps that each of them is tried for.
SEARCH = 0.2

#: What the first seed chose, by a word; later seeds take it.
Choices = dict[str, float]


class Trial(Protocol):
    """Something to be measured."""

    def run(self, arena: Arena, seed: int, choices: Choices) -> Figures:
        """The figures, "score" among them; choices are made by the first seed that comes along."""
        ...


@dataclass(frozen=True)
class Alone:
    """One of the teachers, or the given anchor."""

    index: int | None

    def model(self, arena: Arena, seed: int) -> PreTrainedModel:
        return (arena.anchor(seed) if self.index is None else arena.teachers(seed)[self.index])[1]

    def run(self, arena: Arena, seed: int, choices: Choices) -> Figures:
        return {"score": arena.score(self.model(arena, seed))}


@dataclass(frozen=True)
class Ensemble:
    """The mean of the first so many teachers' distributions; of all of them if None."""

    teachers: int | None = None

    def run(self, arena: Arena, seed: int, choices: Choices) -> Figures:
        models = [model for _, model in arena.teachers(seed)[: self.teachers]]
        return {"score": arena.scores(models)[-1]}


@dataclass(frozen=True)
class Fused:
    """A fusion.

    Attributes:
        residual: map or policy.
        refit: whether weights are refitted.
        alignment: options of the alignment; a soft solver without an epsilon has it chosen.
        teachers: which of the setting's take part; None for all.
        anchored: whether the setting's anchor gives shape and coordinates.
        joined: whether that anchor takes part itself.
        width, depth: of the student.
        samples: of the calibration; None for the setting's number.
        inner: map of heads and hidden units.
        weighs: whether held-out samples choose the anchor's share; as in the paper all have the same otherwise.
    """

    residual: str
    refit: bool
    alignment: Mapping[str, Any] = field(default_factory=dict)
    teachers: Sequence[int] | None = None
    anchored: bool = False
    joined: bool = False
    width: float = 1.0
    depth: int | None = None
    samples: int | None = None
    inner: str = "auto"
    #: Not in what choices are known by: λ is that of equal shares.
    weighs: bool = field(default=False, repr=False)

    def make(self, arena: Arena, seed: int) -> FusionResult:
        """The student, and how it came about."""
        calibration, taking = arena.calibration(seed, self.samples), self._taking_part(arena, seed)
        return fuse_models(
            taking, self.width, calibration, self.options(len(taking)), seed=seed, depth=self.depth,
            anchor=arena.anchor(seed) if self.anchored else None,
        )  # fmt: skip

    def options(self, teachers: int) -> FusionOptions:
        """The product's own, of so many teachers."""
        chosen = self.weighs or self.residual not in POLICIES.names()
        return FusionOptions(
            residual=self.residual, inner=self.inner, refit=self.refit, alignment=AlignmentOptions(**self.alignment),
            weights="auto" if chosen else (1.0,) * teachers,
        )  # fmt: skip

    def run(self, arena: Arena, seed: int, choices: Choices) -> Figures:
        return self.settled(arena, seed, choices).measured(arena, seed)

    def measured(self, arena: Arena, seed: int) -> Figures:
        """Made and scored."""
        begun = time.perf_counter()
        made = self.make(arena, seed)
        seconds = round(time.perf_counter() - begun, 2)
        return {"score": arena.score(made.model), "seconds": seconds, **self._said()}

    def settled(self, arena: Arena, seed: int, choices: Choices) -> Fused:
        """This fusion with its epsilon, chosen on validation data if nobody did so before."""
        if self.alignment.get("solver") != "sinkhorn" or "epsilon" in self.alignment:
            return self
        key = f"epsilon of {self!r}"
        if key not in choices:
            scores = dict(self._judged(arena, seed))
            best = next(iter(scores), EPSILONS[-1])
            for epsilon, score in scores.items():
                if arena.setting.better(score, scores[best]):
                    best = epsilon
            choices[key] = best
        return self._with(choices[key])

    def _judged(self, arena: Arena, seed: int) -> Iterator[tuple[float, float]]:
        """Every epsilon at which the couplings can be solved, and its score on validation data."""
        for epsilon in EPSILONS:
            try:
                made = self._with(epsilon).make(arena, seed)
            except CouplingError:
                continue
            yield epsilon, arena.score(made.model, "validation")

    def _with(self, epsilon: float) -> Fused:
        return replace(self, alignment={**self.alignment, "epsilon": epsilon})

    def _said(self) -> Figures:
        return {"epsilon": self.alignment["epsilon"]} if "epsilon" in self.alignment else {}

    def _taking_part(self, arena: Arena, seed: int) -> list[Named]:
        all_of_them = arena.teachers(seed)
        chosen = all_of_them if self.teachers is None else [all_of_them[index] for index in self.teachers]
        return [*chosen, arena.anchor(seed)] if self.joined else chosen


@dataclass(frozen=True)
class Finetuned:
    """A fused model, or a teacher, after a finetune whose learning rate validation data chose.

    Attributes:
        start: what is trained.
        steps: of the finetune.
        labels: whether it learns from labels.
        distils: whether it learns from the ensemble of the teachers.
    """

    start: Fused | Alone
    steps: int
    labels: bool = True
    distils: bool = False

    def run(self, arena: Arena, seed: int, choices: Choices) -> Figures:
        start = self.start.settled(arena, seed, choices) if isinstance(self.start, Fused) else self.start
        model = start.make(arena, seed).model if isinstance(start, Fused) else start.model(arena, seed)
        model = copy.deepcopy(model)
        key = f"rate of {self!r}"
        weights = {"distil_weight": float(self.distils), "label_weight": float(self.labels)}
        options = FinetuneOptions(
            steps=self.steps,
            batch_size=arena.setting.batch,
            learning_rate=choices.get(key, "search"),
            learning_rates=RATES,
            search_steps=max(1, round(SEARCH * self.steps)),
            **weights,
        )
        report = arena.finetune(model, arena.teachers(seed), options, seed)
        choices[key] = report.learning_rate
        return {"score": arena.score(model), "seconds": round(report.seconds, 1), "rate": report.learning_rate}


@dataclass(frozen=True)
class Copied:
    """A teacher fused with a copy of itself whose spaces are all permuted: what the maps lose shows alone.

    Attributes:
        fusion: how; its teachers are of no account.
    """

    fusion: Fused

    def run(self, arena: Arena, seed: int, choices: Choices) -> Figures:
        name, model = arena.teachers(seed)[0]
        anatomy = inspect_config(model.config)
        maps = random_permutations(anatomy.spaces.values(), torch.Generator().manual_seed(seed))
        copied = copy.deepcopy(model)
        copied.load_state_dict(apply(maps, dict(model.named_parameters()), anatomy), strict=False)
        calibration = arena.calibration(seed, self.fusion.samples)
        made = fuse_models([(name, model), ("copy", copied)], 1.0, calibration, self.fusion.options(2), seed=seed).model
        with torch.no_grad():
            before, after = (logits_of(one, calibration[0]) for one in (model, made))
        return {"error": float((after - before).norm() / before.norm()), "score": arena.score(made)}
