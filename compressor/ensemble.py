"""Predictions of an ensemble: the weighted mean of its members' probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from compressor.errors import UserError


def mix_predictions(rows: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log of the weighted mean of probabilities [..., C].

    Args:
        rows: log-probabilities [..., C] of each model.
        weights: of the models, normalised; weight 0 leaves a model out.

    Raises:
        UserError: as `check_weights`.
    """
    check_weights(len(rows), weights)
    total = sum(weights)
    weighted = [row + math.log(weight / total) for row, weight in zip(rows, weights, strict=True) if weight > 0]
    # Pair by pair: logsumexp over a stack copies all rows and takes four times as long.
    return reduce(torch.logaddexp, weighted)


def check_weights(models: int, weights: Sequence[float]) -> None:
    """UserError unless each model has a non-negative weight and not all are zero."""
    if len(weights) != models or any(weight < 0 for weight in weights) or sum(weights) <= 0:
        raise UserError(
            f"an ensemble of {models} models needs {models} weights, none negative, not all zero: {list(weights)}"
        )
