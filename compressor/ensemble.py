"""What an ensemble says: the weighted mean of its members' probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

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


# Distillation and evaluation.


def ensemble_log_probs(logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0) -> Tensor:
    """Log of the weighted mean of softmax(logits / temperature), [..., classes].

    Args:
        logits: one tensor [..., classes] per teacher.
        weights: one non-negative weight per teacher, as in `mix_predictions`.
    """
    return mix_predictions([(rows / temperature).log_softmax(-1) for rows in logits], weights)


def ensemble_kl(
    student_logits: Tensor, teacher_logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0
) -> Tensor:
    """temperature² · KL(mean of the teachers' softmax ‖ the student's softmax), both at `temperature`.

    The square keeps the size of the gradient independent of the temperature (Hinton et al. 2015).

    Args:
        student_logits: [..., classes]; all but the last dimension are samples.
        teacher_logits: the same shape, one per teacher.
        weights: see `ensemble_log_probs`.

    Returns:
        The mean over the samples in nats, a scalar.
    """
    target = ensemble_log_probs(teacher_logits, weights, temperature).flatten(0, -2)
    student = (student_logits / temperature).log_softmax(-1).flatten(0, -2)
    return temperature**2 * functional.kl_div(student, target, reduction="batchmean", log_target=True)


def summed_kl(reference: Tensor, log_probs: Tensor) -> float:
    """Σ over rows of KL(reference ‖ model) in nats, summed in float64.

    Args:
        reference, log_probs: log-probabilities [P, C].
    """
    reference, log_probs = reference.double(), log_probs.double()
    # A class of probability 0 adds nothing, whatever the model predicts; 0 · (−∞) would be NaN.
    terms = torch.where(reference.isneginf(), 0.0, reference.exp() * (reference - log_probs))
    return terms.sum().item()
