"""How far ours is before others, and what a random start takes to be there."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.baselines.contenders import OURS, RANDOM, SINGLE
from benchmarks.baselines.contest import FORMER, TEACHERS, VALIDATION
from benchmarks.baselines.figures import scores
from benchmarks.baselines.settings import Event
from benchmarks.common.results import Store

#: What figures that are compared must have in common.
RULES = ("teachers", "trial", "temperature", FORMER)
#: What is compared besides scores.
IN_NATS = {
    "loss": "with the lowest loss on the labels, in thousandths of a nat",
    "kl": "with the lowest KL to the ensemble, in thousandths of a nat",
}


def earned(store: Store, event: Event, steps: Sequence[int]) -> list[str]:
    """How far ours is before the students of one teacher, seed by seed and by every yardstick."""
    alone = SINGLE[: len(event.setting.teachers[0])]
    said: dict[str, list[str]] = {}
    for count in steps:
        ahead: dict[str, list[float]] = {}
        for seed in range(event.seeds):
            found = [one for name in (OURS, *alone) if (one := store.get(event.name, name, str(count), seed))]
            # A recipe trained on another machine gives teachers that differ a little, and former rules of the finetune
            # other students: those are not compared.
            alike = len({tuple(map(one.get, RULES)) for one in found}) == 1
            if len(found) == len(alone) + 1 and alike:
                teachers = store.get(event.name, TEACHERS, "0", seed) or {}
                for yardstick, lead in _leads(event, found, teachers.get(VALIDATION)).items():
                    ahead.setdefault(yardstick, []).append(lead)
        for yardstick, leads in ahead.items():
            if len(leads) > 1:
                error = statistics.stdev(leads) / len(leads) ** 0.5
                said.setdefault(yardstick, []).append(f"{count}: {statistics.mean(leads):+.2f} ± {error:.2f}")
    if not said:
        return []
    lines = ["Ours before the student of one teacher, by seed, after … steps:", ""]
    return [*lines, *(f"- {yardstick}: {'; '.join(leads)}" for yardstick, leads in said.items()), ""]


def _leads(
    event: Event, found: Sequence[dict[str, Any]], validation: Sequence[float] | None = None
) -> dict[str, float]:
    """How far the first is before the others.

    Args:
        event: what is contended for.
        found: figures of ours, and of the student of each teacher.
        validation: scores of the teachers, and of their ensemble, on the part that settings are chosen by.
    """
    sign = 1 if event.setting.better(1, 0) else -1
    ours, *others = [sign * one["score"] for one in found]
    leads = {f"of teacher {k + 1}": ours - score for k, score in enumerate(others)}
    if validation:
        alone = [sign * score for score in validation[: len(others)]]
        leads["of the better teacher by validation data"] = ours - others[alone.index(max(alone))]
    leads["that the test favours"] = ours - max(others)
    for key, yardstick in IN_NATS.items():
        if all(key in one for one in found):
            own, *theirs = [1000 * one[key] for one in found]
            leads[yardstick] = min(theirs) - own
    return leads


def reach(store: Store, event: Event, steps: Sequence[int]) -> list[str]:
    """After how many steps a random start is where ours is after fewer."""
    theirs = {n: statistics.mean(own) for n in steps if n and (own := scores(store, event, RANDOM, n))}
    said = []
    for count in steps if theirs else ():
        if ours := scores(store, event, OURS, count):
            wanted = statistics.mean(ours)
            reached = [n for n, score in theirs.items() if not event.setting.better(wanted, score)]
            said.append(f"{count}: {f'{reached[0]} steps' if reached else f'more than {max(theirs)} steps'}")
    return [f"A random start reaches ours after … steps only after: {'; '.join(said)}.", ""] if said else []
