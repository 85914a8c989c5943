"""What a student is trained on: the ensemble's distribution, labels if there are any, and hidden states."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compressor.errors import UserError


def ensemble_log_probs(logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0) -> Tensor:
    """Log of the weighted mean of softmax(logits / temperature), [..., classes].

    Args:
        logits: one tensor [..., classes] per teacher.
        weights: one non-negative weight per teacher; they are normalised, and a teacher of weight 0 is left out.

    Raises:
        UserError: not one weight per teacher, a negative one, or all zero.
    """
    check_weights(len(logits), weights)
    total = sum(weights)
    terms = [
        (one / temperature).log_softmax(-1) + math.log(weight / total)
        for one, weight in zip(logits, weights, strict=True)
        if weight > 0
    ]
    return torch.stack(terms).logsumexp(dim=0)


def ensemble_kl(
    student_logits: Tensor, teacher_logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0
) -> Tensor:
    """temperature² · KL(mean of the teachers' softmax ‖ the student's softmax), both at `temperature`.

    The square keeps the size of the gradient independent of the temperature.

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


def label_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [..., classes] with labels [...]; labels below 0 are unknown and left out."""
    known = (labels >= 0).flatten()
    losses = functional.cross_entropy(student_logits.flatten(0, -2), labels.flatten().clamp(min=0), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def hidden_loss(student_hidden: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean over layers of the squared error relative to the target's mean square.

    Args:
        student_hidden: the student's hidden states [B, T, width], one per layer that is compared.
        targets: what they should be: the teachers' hidden states through the fixed maps of the fusion.  There is
            no learned projector, so what the loss asks for does not drift.

    Returns:
        0 if all layers agree, about 1 for a student of zeros; a scalar.
    """
    errors = [
        (given - target).square().mean() / target.square().mean().clamp(min=1e-12)
        for given, target in zip(student_hidden, targets, strict=True)
    ]
    return torch.stack(errors).mean()


def check_weights(teachers: int, weights: Sequence[float]) -> None:
    """Raise a `UserError` unless there is one non-negative weight per teacher and not all are zero."""
    if len(weights) != teachers or any(weight < 0 for weight in weights) or sum(weights) <= 0:
        raise UserError(f"{teachers} teachers need {teachers} weights, none negative, not all zero: {list(weights)}")
