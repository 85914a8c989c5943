"""What an ensemble says: the weighted mean of its members' probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from compressor.errors import UserError


def mix_predictions(rows: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log of the weighted mean of probabilities, of the rows' dtype.

    Args:
        rows: log-probabilities [..., C], one tensor per model.
        weights: one non-negative weight per model; they are normalised, and a model of weight 0 is left out.

    Raises:
        UserError: not one weight per model, a negative one, or all zero.
    """
    check_weights(len(rows), weights)
    total = sum(weights)
    kept = [row + math.log(weight / total) for row, weight in zip(rows, weights, strict=True) if weight > 0]
    # Pair by pair: logsumexp over a stack makes a copy of all rows first, and takes four times as long.
    return reduce(torch.logaddexp, kept)


def check_weights(models: int, weights: Sequence[float]) -> None:
    """Raise a `UserError` unless there is one non-negative weight per model and not all are zero."""
    if len(weights) != models or any(weight < 0 for weight in weights) or sum(weights) <= 0:
        raise UserError(
            f"an ensemble of {models} models needs {models} weights, none negative, not all zero: {list(weights)}"
        )
