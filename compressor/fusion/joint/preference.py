"""Accuracy and speed of shapes, weighed by what the user prefers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from compressor.recipe.fusion import PreferName

_T = TypeVar("_T")

#: How many times as far from the ensemble as the best pilot a faster shape's may be.  Nothing is added: beside a pilot
#: that gives its teacher back, another one is not near.
MARGINS: dict[PreferName, float] = {"accuracy": 1.0, "balanced": 1.1}
#: A shape is faster if it takes at most this share of another's time.
FASTER = 0.97


def preferred(
    trials: Sequence[_T], score: Callable[[_T], float], cost: Callable[[_T], float], prefer: PreferName
) -> _T:
    """The fastest trial whose score is within the margin of the best; the best of those about as fast.

    Args:
        trials: at least one.
        score: lower is better.
        cost: of time, in any unit.
    """
    best = min(map(score, trials))
    # Of a pilot that gives its teacher back, the distance is rounding, of either sign.
    near = [trial for trial in trials if prefer == "speed" or score(trial) <= max(best, MARGINS[prefer] * best)]
    fastest = min(map(cost, near))
    return min((trial for trial in near if FASTER * cost(trial) <= fastest), key=score)
