"""Mixtures of classes' probabilities, weighted power means, and KL divergences; `answers` has other outputs.

`mixing` is the exponent's inverse: with M teachers of weights α,

    log p = T · log Σ_k α_k exp(log p_k / T) − log Z,

so T = 1 is the mean of probabilities, T = ∞ the mean of log-probabilities (a product of experts, Hinton 2002,
https://www.cs.toronto.edu/~hinton/absps/tr00-004.pdf), and others lie between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from compressor.errors import UserError


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


def side_by_side(rows: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Embeddings [..., D of each model] as one: its products are the weighted mean of the models' products.

    Raises:
        UserError: as `check_ensemble_weights`.
    """
    check_ensemble_weights(len(rows), weights)
    total = math.fsum(weights)
    pairs = zip(rows, weights, strict=True)
    return torch.cat([row * math.sqrt(weight / total) for row, weight in pairs if weight], dim=-1)


def sums_per_sample(values: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sums of values [B, ...] over a sample's positions that count, and their numbers, both [B].

    Args:
        positions: which count [B, T], as of `Task.positions`; None: all.
    """
    counted = torch.ones_like(values, dtype=torch.bool)
    if positions is not None and values.dim() > 1:
        # Places of images come before the text's.
        values, counted = values[:, -positions.shape[1] :], positions
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
    """Log-probabilities [..., classes] of the mixture, softened by the temperature.

    The mixture is softened, not what is mixed: whatever the temperature, the student that fits best is the mixture.
    """
    mixed = mix_predictions([rows.log_softmax(-1) for rows in logits], weights, mixing)
    return mixed if temperature == 1 else (mixed / temperature).log_softmax(-1)


def ensemble_kl(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    weights: Sequence[float],
    temperature: float = 1.0,
    mixing: float = 1.0,
) -> Tensor:
    """temperature² · KL(softened mixture ‖ student's softmax), in nats, averaged over samples [..., classes].

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
