"""The cells of one setting: every contender's student, one-shot and distilled from the chosen mixture."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from benchmarks.baselines.contenders import OURS, Fused
from benchmarks.baselines.contest import TEACHERS
from benchmarks.baselines.settings import Event
from benchmarks.common.rates import searched_rate
from benchmarks.common.results import Store
from benchmarks.common.setting import Arena
from benchmarks.experts.contenders import CONTENDERS, taking_part
from benchmarks.experts.scores import Examination
from compressor.distillation.distill import FinetuneReport
from compressor.distillation.lr_search import LearningRateTrial
from compressor.distillation.objective import FeatureTargets
from compressor.ensemble.stacking import Mixture
from compressor.errors import UserError
from compressor.fusion.mixture import mixture_of
from compressor.recipe import FinetuneOptions, FusionOptions

#: Learning rates that every contender chooses from.
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
#: The rate of a student that no other rate brought nearer to the mixture, on samples kept out: it stays as it was.
UNMOVED = 0.0
#: Steps of the trials: a finetune takes the rate of the shortest ones that are not shorter, else of the longest.
TRIALS = (25, 200)
#: Key of their losses in the store; those under "trials" are of samples that the students were made from too.
TRIALS_KEY = "trials on unseen samples"
#: Share of the samples that rates are chosen by.
KEPT_OUT = 0.125


@dataclass(frozen=True)
class Start:
    """A contender's student before the distillation; `targets`: the streams that ours is fused from."""

    name: str
    model: PreTrainedModel
    targets: FeatureTargets | None = None


@dataclass(frozen=True)
class Draw:
    """One draw of samples, what is learned from them, and how narrow students are."""

    arena: Arena
    mixture: Mixture
    width: float
    seed: int


def trial(steps: int) -> int:
    """Steps of a learning rate's trial for a finetune of so many."""
    return next((count for count in TRIALS if count >= steps), TRIALS[-1])


def column(samples: int, steps: int) -> str:
    """The name of a cell's column in the store."""
    return f"{samples} samples, {steps} steps"


def hold(
    event: Event,
    arena: Arena,
    store: Store,
    *,
    names: Sequence[str],
    seeds: int,
    samples: Sequence[int],
    steps: Sequence[int],
) -> Iterator[str]:
    """Measure what the store lacks of a setting; a line for every figure."""
    taking = [name for name in taking_part(arena) if name in names]
    for seed in range(seeds):
        examination: Examination | None = None
        for count in samples:
            lacking = {name: _missing(event, store, name, seed, count, steps) for name in taking}
            if any(lacking.values()):
                examination = examination or Examination(arena, seed)
                yield from _cells(event, arena.of_samples(count), store, lacking, seed, examination)


def _missing(event: Event, store: Store, name: str, seed: int, samples: int, steps: Sequence[int]) -> list[int]:
    return [n for n in steps if store.get(event.setting.name, name, column(samples, n), seed) is None]


def _cells(
    event: Event,
    arena: Arena,
    store: Store,
    lacking: Mapping[str, Sequence[int]],
    seed: int,
    examination: Examination,
) -> Iterator[str]:
    """The cells of one draw of samples; `lacking`: steps by contender."""
    setting, samples = event.setting.name, arena.setting.samples
    models = [model for _, model in arena.teachers(seed)]
    mixture = mixture_of(models, arena.calibration(seed), FusionOptions())
    origin = {"teachers": arena.fingerprint(seed)}
    rows = {"figures": examination.teachers(mixture), "mixture": mixture.name, "weights": list(mixture.weights)}
    store.put(setting, TEACHERS, column(samples, 0), seed, rows | origin)
    yield f"{setting} | seed {seed} | teachers: {rows}"
    draw = Draw(arena, mixture, event.width, seed)
    for name, steps in lacking.items():
        if not steps:
            continue
        try:
            start = _start(name, arena, event.width, seed)
        except UserError as error:
            yield f"{setting} | seed {seed} | {name}: refused, {error}"
            continue
        for count in steps:
            figures = _after(draw, store, start, examination, count)
            store.put(setting, name, column(samples, count), seed, figures | origin)
            yield f"{setting} | seed {seed} | {name} | {column(samples, count)}: {figures}"


def _start(name: str, arena: Arena, width: float, seed: int) -> Start:
    contender = CONTENDERS[name]
    if name != OURS or not isinstance(contender, Fused):
        return Start(name, contender.make(arena, width, seed))
    result = contender.fuse(arena, width, seed)
    return Start(name, result.model, FeatureTargets(result.passages))


def _after(draw: Draw, store: Store, start: Start, examination: Examination, steps: int) -> dict[str, Any]:
    """Figures after so many steps of distillation from the mixture, on the calibration samples alone."""
    if not steps:
        return examination.student(start.model, draw.mixture)
    setting = draw.arena.setting
    known = store.setting(setting.name).setdefault(TRIALS_KEY, {}).setdefault(start.name, {})
    search = partial(_trials, draw, start.name, trial(steps))
    rate = searched_rate(known, column(setting.samples, trial(steps)), (UNMOVED, *RATES), search)
    model = copy.deepcopy(start.model)
    if rate != UNMOVED:
        _finetune(draw, start, model, steps=steps, learning_rate=rate)
    return {**examination.student(model, draw.mixture), "rate": rate}


def _trials(draw: Draw, name: str, steps: int, further: int) -> list[LearningRateTrial]:
    """Losses by rate on samples kept out, of a student that is made without these; staying as it was may be one.

    Args:
        further: added to the seed.
    """
    draw = replace(draw, arena=draw.arena.without_validation(KEPT_OUT), seed=draw.seed + further)
    start = _start(name, draw.arena, draw.width, draw.seed)
    searched = {"learning_rate": "search", "learning_rates": RATES, "validation": KEPT_OUT}
    report = _finetune(draw, start, copy.deepcopy(start.model), steps=steps, **searched)
    unmoved = [LearningRateTrial(UNMOVED, report.judged[0][1])] if report.best_step == 0 else []
    return [*report.search, *unmoved]


def _finetune(draw: Draw, start: Start, model: PreTrainedModel, **options: Any) -> FinetuneReport:
    """Distil from the mixture; streams cannot be compared with cached logits alone."""
    arena, seed = draw.arena, draw.seed
    chosen = FinetuneOptions(batch_size=arena.setting.batch, cache_logits=start.targets is None, **options)
    return arena.finetune(
        model, arena.teachers(seed), chosen, seed, draw.mixture, targets=start.targets, only_calibration=True
    )
