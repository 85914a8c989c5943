"""One event: every contender makes a student, which is scored as it is and after finetunes of several lengths."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from benchmarks.baselines.contenders import CHANNELS, OURS, PRUNED, RANDOM, SINGLE, taking_part
from benchmarks.baselines.settings import Event
from benchmarks.common.rates import searched_rate
from benchmarks.common.results import Store
from benchmarks.common.setting import Arena
from benchmarks.cost.memory import peak_above
from compressor.errors import UserError
from compressor.pipeline.environment import environment
from compressor.recipe import FinetuneOptions

#: Learning rates that every contender chooses from, by the first seed, on training samples kept out.
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
#: The most steps of a trial; shorter finetunes are tried whole.  A random BERT learns nothing at any rate in its
#: first fifty steps, so trials of a share of the finetune chose it a bad one.
MOST_TRIAL = 400
#: The most steps of ours and of one teacher's students, of a random start, and of pruned teachers; an event says
#: those of the others.
MOST = {OURS: 800, **dict.fromkeys(SINGLE, 800), RANDOM: 2000, **dict.fromkeys((PRUNED, CHANNELS), 200)}
#: The row of the teachers, and the key of what they score where a better one may be chosen.
TEACHERS, VALIDATION = "teachers", "validation"
#: The key that says of which version a student was, where it would be another one now.
FORMER = "former"
#: The key of the steps that an event's anchor was trained for before.
TRAINED = "anchor_steps"


def lengths(event: Event, name: str) -> list[int]:
    """The finetunes that a contender is measured after, in steps."""
    return [count for count in event.steps if count <= MOST.get(name, event.others)]


def settled(figures: Mapping[str, Any] | None, event: Event, steps: int) -> bool:
    """Whether a cell is measured, with the student, the temperature and the search of the rate that there are now."""
    if figures is None or FORMER in figures:
        return False
    rules = (figures.get("trial"), figures.get("temperature"))
    return "rate" not in figures or rules == (trial(steps), event.setting.task.temperature)


def trial(steps: int) -> int:
    """Steps of a learning rate's trial for a finetune of so many."""
    return min(steps, MOST_TRIAL)


def hold(
    event: Event, arena: Arena, store: Store, names: Sequence[str], seeds: int, most_steps: int | None
) -> Iterator[str]:
    """Measure what the store lacks of an event; a line for every figure.

    Args:
        event: what is contended for.
        arena: its teachers and data.
        store: where figures are kept.
        names: contenders.
        seeds: how many.
        most_steps: no finetune is longer.
    """
    contenders = taking_part(arena, event.width)
    taking = [name for name in event.only or contenders if name in contenders]
    machine = environment()["cpu"]
    if arena.setting.anchors and (trained := arena.anchor_steps(0)):
        store.setting(event.name)[TRAINED] = trained
        store.write()
    for seed in range(seeds):
        origin = {"teachers": arena.fingerprint(seed), "cpu": machine}
        if VALIDATION not in (store.get(event.name, TEACHERS, "0", seed) or {}):
            models = [model for _, model in arena.teachers(seed)]
            found = {"scores": arena.scores(models), VALIDATION: arena.scores(models, "validation")}
            store.put(event.name, TEACHERS, "0", seed, {**found, **origin})
            yield f"{event.name} | seed {seed} | teachers: {store.get(event.name, TEACHERS, '0', seed)}"
        for name in names:
            steps = [count for count in lengths(event, name) if most_steps is None or count <= most_steps]
            known = {count: store.get(event.name, name, str(count), seed) for count in steps}
            missing = [count for count, found in known.items() if not settled(found, event, count)]
            if name not in taking or not missing:
                continue
            # Of the processor, so that what else the machine does is not counted.
            begun = time.process_time()
            try:
                with peak_above() as peak:
                    start = contenders[name].make(arena, event.width, seed)
            except UserError as error:
                for count in missing:
                    store.put(event.name, name, str(count), seed, {"refused": str(error)})
                yield f"{event.name} | seed {seed} | {name}: refused, {error}"
                continue
            made = time.process_time() - begun
            for count in missing:
                figures = _after(arena, store, event, name, start, count, seed)
                figures |= {"making": round(made, 2), "memory": peak.bytes, **origin}
                store.put(event.name, name, str(count), seed, figures)
                yield f"{event.name} | seed {seed} | {name} | {count} steps: {figures}"


def _after(
    arena: Arena, store: Store, event: Event, name: str, start: PreTrainedModel, steps: int, seed: int
) -> dict[str, Any]:
    """Score, loss and KL to the ensemble after so many steps of distillation."""
    model, more = start, {}
    if steps:
        model = copy.deepcopy(start)
        rate = _rate(arena, store, event, name, start, steps, seed)
        options = FinetuneOptions(steps=steps, batch_size=arena.setting.batch, learning_rate=rate, cache_logits=True)
        found = arena.finetune(model, arena.teachers(seed), options, seed)
        more = {
            "rate": rate,
            "trial": trial(steps),
            "temperature": found.temperature,
            "seconds": round(found.seconds, 1),
        }
    return {**arena.judge(model), "kl": round(arena.divergence(model, seed), 5), **more}


def _rate(arena: Arena, store: Store, event: Event, name: str, start: PreTrainedModel, steps: int, seed: int) -> float:
    """The learning rate for so many steps: that with the least loss on samples kept out, in the first seed's trials."""
    options = FinetuneOptions(
        steps=trial(steps),
        batch_size=arena.setting.batch,
        learning_rate="search",
        learning_rates=RATES,
        cache_logits=True,
    )
    return searched_rate(
        store.setting(event.name).setdefault("trials", {}).setdefault(name, {}),
        f"{trial(steps)} steps, temperature {event.setting.task.temperature:g}",
        RATES,
        lambda draw: arena.finetune(copy.deepcopy(start), arena.teachers(seed), options, seed + draw).search,
        event.draws if name == RANDOM else 1,
    )
