"""Ensemble predictions, weighted power means of probabilities, and KL divergences.

`mixing` is the exponent's inverse: with M teachers of weights α,

    log p = T · log Σ_k α_k exp(log p_k / T) − log Z,

so T = 1 is the mean of probabilities, T = ∞ the mean of log-probabilities (a product of experts, Hinton 2002,
https://www.cs.toronto.edu/~hinton/absps/tr00-004.pdf), and others lie between.
"""

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


def mix_predictions(rows: Sequence[Tensor], weights: Sequence[float], mixing: float = 1.0) -> Tensor:
    """Log of the weighted power mean of probabilities [..., C].

    Args:
        rows: log-probabilities [..., C].
        weights: unnormalised; 0 leaves a model out.
        mixing: T in [1, ∞].

    Raises:
        UserError: as `check_ensemble_weights`.
    """
    check_ensemble_weights(len(rows), weights)
    total = sum(weights)
    pairs = [(row, weight / total) for row, weight in zip(rows, weights, strict=True) if weight > 0]
    if len(pairs) == 1:
        return pairs[0][0]
    if math.isinf(mixing):
        return sum((share * row for row, share in pairs[1:]), start=pairs[0][1] * pairs[0][0]).log_softmax(-1)
    weighted = [(row if mixing == 1 else row / mixing) + math.log(share) for row, share in pairs]
    # Pair by pair: logsumexp over a stack copies all rows, and takes four times as long.
    mixed = reduce(torch.logaddexp, weighted)
    return mixed if mixing == 1 else (mixing * mixed).log_softmax(-1)


def check_ensemble_weights(models: int, weights: Sequence[float]) -> None:
    """UserError unless there is a non-negative weight per model, not all zero."""
    if len(weights) != models or any(weight < 0 for weight in weights) or sum(weights) <= 0:
        raise UserError(
            f"an ensemble of {models} models needs {models} weights, none negative, not all zero: {list(weights)}"
        )


@torch.no_grad()
def ensemble_predictions(
    models: Sequence[nn.Module], weights: Sequence[float], batch: Mapping[str, Tensor], mixing: float = 1.0
) -> Tensor:
    """Log of the models' mixed probabilities, [B, ..., classes] float64."""
    inputs = without_labels(batch)
    return mix_predictions([logits_of(model, inputs).double().log_softmax(-1) for model in models], weights, mixing)


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
        sums, counts = sums_per_sample((target.exp() * (target - predicted)).sum(-1), inputs)
        total, count = total + float(sums.sum()), count + int(counts.sum())
    mean = total / max(count, 1)
    return mean if mean == mean else float("inf")


def sums_per_sample(values: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Sums of values [B, ...] over a sample's unmasked tokens, and their numbers, both [B].

    Args:
        inputs: the model's, with its masks.
    """
    counted = torch.ones_like(values, dtype=torch.bool)
    mask = inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")
    if mask is not None and values.dim() > 1:
        counted = mask.bool()
    rows = values.where(counted, 0.0).reshape(len(values), -1)
    return rows.sum(1), counted.reshape(len(values), -1).sum(1)


def kl_terms(targets: Tensor, log_probs: Tensor) -> Tensor:
    """Terms p · (log p - log q) of KL(p || q) [..., classes].

    Args:
        targets: p, zeros allowed.
        log_probs: log q.
    """
    return targets * (targets.clamp(min=1e-30).log() - log_probs)


def ensemble_log_probs(
    logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0, mixing: float = 1.0
) -> Tensor:
    """Log of the weighted power mean of softmax(logits / temperature) [..., classes]."""
    return mix_predictions([(rows / temperature).log_softmax(-1) for rows in logits], weights, mixing)


def ensemble_kl(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    weights: Sequence[float],
    temperature: float = 1.0,
    mixing: float = 1.0,
) -> Tensor:
    """temperature² · KL(teachers' mixed softmax ‖ student's softmax), in nats, averaged over samples [..., classes].

    The square keeps gradients independent of the temperature (Hinton et al. 2015).
    """
    target = ensemble_log_probs(teacher_logits, weights, temperature, mixing).flatten(0, -2)
    student = (student_logits / temperature).log_softmax(-1).flatten(0, -2)
    return temperature**2 * functional.kl_div(student, target, reduction="batchmean", log_target=True)


def kl_rows(reference: Tensor, log_probs: Tensor) -> Tensor:
    """KL(reference ‖ model) in nats of each row, float64 [P], from log-probabilities [P, C]."""
    reference, log_probs = reference.double(), log_probs.double()
    # A class of probability 0 adds nothing, whatever the model predicts; 0 · (−∞) would be NaN.
    return torch.where(reference.isneginf(), 0.0, reference.exp() * (reference - log_probs)).sum(-1)
