"""A contender's learning rate: searched once, by the first seed, and kept with the figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from compressor.distillation.lr_search import LearningRateTrial


def searched_rate(
    known: dict[str, dict[str, float]],
    key: str,
    rates: Sequence[float],
    search: Callable[[int], Sequence[LearningRateTrial]],
    draws: int = 1,
) -> float:
    """The rate with the least mean loss on samples kept out.

    Args:
        known: losses by rate, by key; added to.
        key: what the trials were.
        rates: that are tried.
        search: the trials of a draw.
        draws: how many; more where training fails by chance.
    """
    if key not in known:
        losses: dict[float, list[float]] = {rate: [] for rate in rates}
        for draw in range(draws):
            for trial in search(draw):
                if trial.learning_rate in losses:
                    loss = math.inf if trial.validation_loss is None else trial.validation_loss
                    losses[trial.learning_rate].append(loss)
        means = {str(rate): round(statistics.mean(found), 5) for rate, found in losses.items() if found}
        # A loss that is not finite is no JSON.
        known[key] = {rate: loss for rate, loss in means.items() if math.isfinite(loss)}
    found = known[key]
    return float(min(found, key=lambda rate: found[rate]))
