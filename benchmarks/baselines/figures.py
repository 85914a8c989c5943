"""What the store holds of a contender, and how it is written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.baselines.contest import settled
from benchmarks.baselines.settings import Event
from benchmarks.common.results import Store

#: Behind a figure that the command would measure anew.
DAGGER = " †"


def scores(store: Store, event: Event, name: str, steps: int, key: str = "score") -> list[float]:
    """What a contender reached after so many steps, by seed."""
    found = [store.get(event.name, name, str(steps), seed) for seed in range(event.seeds)]
    return [one[key] for one in found if one is not None and key in one]


def cell(store: Store, event: Event, name: str, steps: int) -> str:
    """A contender's mean score after so many steps, as in tables, and whether it is of former rules."""
    found = [store.get(event.name, name, str(steps), seed) for seed in range(event.seeds)]
    former = any(one is not None and not settled(one, event, steps) for one in found)
    return mean(scores(store, event, name, steps), event) + DAGGER * former


def mean(values: Sequence[float], event: Event) -> str:
    """Mean ± standard error as in tables; nothing of nothing, and without ± of one value."""
    if not values:
        return ""
    middle = statistics.mean(values)
    digits = 2 if event.setting.metric == "perplexity" and middle < 10 else 1
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"
