"""What the store holds of a setting's cells."""

from __future__ import annotations

from typing import Any

from benchmarks.baselines.contenders import OURS, SINGLE
from benchmarks.baselines.contest import TEACHERS
from benchmarks.baselines.settings import Event
from benchmarks.common.results import Store
from benchmarks.experts.contenders import CONTENDERS
from benchmarks.experts.contest import column
from benchmarks.experts.settings import SAMPLES


def cells(store: Store, event: Event, name: str, samples: int, steps: int) -> list[dict[str, Any]]:
    """A contender's figures by seed."""
    found = [store.get(event.setting.name, name, column(samples, steps), seed) for seed in range(event.seeds)]
    return [one for one in found if one is not None]


def values(store: Store, event: Event, name: str, samples: int, steps: int, key: str = "score") -> list[float]:
    """One figure of a cell by seed."""
    return [one[key] for one in cells(store, event, name, samples, steps)]


def measured_samples(store: Store, event: Event) -> list[int]:
    """The numbers of samples with figures."""
    return [count for count in SAMPLES if cells(store, event, TEACHERS, count, 0)]


def measured_steps(store: Store, event: Event, samples: int) -> list[int]:
    """The numbers of steps with figures of anybody."""
    return [n for n in event.steps if any(cells(store, event, name, samples, n) for name in CONTENDERS)]


def leads(store: Store, event: Event, samples: int, steps: int, key: str) -> list[float]:
    """By seed, how far ours is before the best part's student by that very figure: positive is better."""
    found = []
    for seed in range(event.seeds):
        ours, *others = (
            store.get(event.setting.name, name, column(samples, steps), seed)
            for name in (OURS, *SINGLE[: len(event.setting.teachers[0])])
        )
        if ours is not None and None not in others:
            smaller = key == "kl" or not event.setting.better(1, 0)
            rivals = [one[key] for one in others if one is not None]
            found.append(min(rivals) - ours[key] if smaller else ours[key] - max(rivals))
    return found
