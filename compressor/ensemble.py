"""Ensemble predictions, weighted means of probabilities, and KL divergences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.anatomy.hooks import logits_of
from compressor.errors import UserError
from compressor.models.inputs import without_labels


def mix_predictions(rows: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log of the weighted mean of probabilities.

    Args:
        rows: log-probabilities [..., C].
        weights: unnormalised; 0 leaves a model out.

    Raises:
        UserError: as `check_ensemble_weights`.
    """
    check_ensemble_weights(len(rows), weights)
    total = sum(weights)
    weighted = [row + math.log(weight / total) for row, weight in zip(rows, weights, strict=True) if weight > 0]
    # Pair by pair: logsumexp over a stack copies all rows, and takes four times as long.
    return reduce(torch.logaddexp, weighted)


def check_ensemble_weights(models: int, weights: Sequence[float]) -> None:
    """UserError unless there is a non-negative weight per model, not all zero."""
    if len(weights) != models or any(weight < 0 for weight in weights) or sum(weights) <= 0:
        raise UserError(
            f"an ensemble of {models} models needs {models} weights, none negative, not all zero: {list(weights)}"
        )


@torch.no_grad()
def ensemble_predictions(models: Sequence[nn.Module], weights: Sequence[float], batch: Mapping[str, Tensor]) -> Tensor:
    """Log of the models' mean probabilities, [B, ..., classes] float64."""
    inputs = without_labels(batch)
    return mix_predictions([logits_of(model, inputs).double().log_softmax(-1) for model in models], weights)


@torch.no_grad()
def mean_kl(model: nn.Module, batches: Sequence[Mapping[str, Tensor]], targets: Sequence[Tensor]) -> float:
    """Mean KL(target || model) over unmasked tokens or samples, in nats; infinite for NaN.

    Args:
        targets: log-probabilities [B, ..., classes].
    """
    total, count = 0.0, 0
    for batch, target in zip(batches, targets, strict=True):
        inputs = without_labels(batch)
        predicted = logits_of(model, inputs).double().log_softmax(-1)
        kl = (target.exp() * (target - predicted)).sum(-1)
        mask = inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")
        if mask is not None and kl.dim() > 1:
            kl = kl[mask.bool()]
        total, count = total + float(kl.sum()), count + kl.numel()
    mean = total / max(count, 1)
    return mean if mean == mean else float("inf")


def kl_terms(targets: Tensor, log_probs: Tensor) -> Tensor:
    """Terms p · (log p - log q) of KL(p || q) [..., classes].

    Args:
        targets: p, zeros allowed.
        log_probs: log q.
    """
    return targets * (targets.clamp(min=1e-30).log() - log_probs)


def ensemble_log_probs(logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0) -> Tensor:
    """Log of the weighted mean of softmax(logits / temperature) [..., classes]."""
    return mix_predictions([(rows / temperature).log_softmax(-1) for rows in logits], weights)


def ensemble_kl(
    student_logits: Tensor, teacher_logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0
) -> Tensor:
    """temperature² · KL(teachers' mean softmax ‖ student's softmax), in nats, averaged over samples [..., classes].

    The square keeps gradients independent of the temperature (Hinton et al. 2015).
    """
    target = ensemble_log_probs(teacher_logits, weights, temperature).flatten(0, -2)
    student = (student_logits / temperature).log_softmax(-1).flatten(0, -2)
    return temperature**2 * functional.kl_div(student, target, reduction="batchmean", log_target=True)


def kl_rows(reference: Tensor, log_probs: Tensor) -> Tensor:
    """KL(reference ‖ model) in nats of each row, float64 [P], from log-probabilities [P, C]."""
    reference, log_probs = reference.double(), log_probs.double()
    # A class of probability 0 adds nothing, whatever the model predicts; 0 · (−∞) would be NaN.
    return torch.where(reference.isneginf(), 0.0, reference.exp() * (reference - log_probs)).sum(-1)
