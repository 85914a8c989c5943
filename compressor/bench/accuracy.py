"""Accuracy, and how far a model is from the ensemble it was made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.errors import UnsupportedError, UserError

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Score:
    """Accuracy in [0, 1] where there are labels, KL(reference ‖ model) in nats where there is a reference."""

    accuracy: float | None
    kl: float | None
    samples: int
    labelled: int

    @property
    def accuracy_error(self) -> float | None:
        """Standard error of the accuracy, from the number of labelled samples."""
        if self.accuracy is None:
            return None
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.labelled)


@dataclass(frozen=True)
class Predictions:
    """Log-probabilities [N, classes] of each model on the same samples, and their labels [N] if there are any."""

    log_probs: tuple[Tensor, ...]
    labels: Tensor | None


def predict(models: Sequence[PreTrainedModel], batches: Iterable[Batch]) -> Predictions:
    """One forward pass per model and batch; each batch is made once for all models.

    Args:
        models: classifiers, which run in eval mode and are left as they were.
        batches: model inputs, with or without "labels" [B]; labels never reach a model.

    Returns:
        Float32 on the CPU, in the order of the batches.

    Raises:
        UserError: there are no samples, or only some batches have labels.
        UnsupportedError: a model's logits are not [B, classes].
    """
    training = [model.training for model in models]
    rows: list[list[Tensor]] = [[] for _ in models]
    labels: list[Tensor] = []
    count = 0
    try:
        for model in models:
            model.eval()
        with torch.inference_mode():
            for batch in batches:
                count += 1
                inputs = dict(batch)
                given = inputs.pop("labels", None)
                if given is not None:
                    labels.append(given.cpu())
                for model, row in zip(models, rows, strict=True):
                    row.append(_forward(model, inputs))
    finally:
        for model, was in zip(models, training, strict=True):
            model.train(was)
    if count == 0:
        raise UserError("nothing to evaluate: the data has no samples")
    if labels and len(labels) != count:
        raise UserError("only some of the evaluation batches have labels: give all of them labels, or none")
    return Predictions(tuple(torch.cat(row) for row in rows), torch.cat(labels) if labels else None)


def log_probs(model: PreTrainedModel, batches: Iterable[Batch]) -> Tensor:
    """Log-probabilities of one model, float32 [N, classes]; see `predict`."""
    return predict([model], batches).log_probs[0]


def ensemble_log_probs(models: Sequence[PreTrainedModel], weights: Sequence[float], batches: Iterable[Batch]) -> Tensor:
    """Log of the weighted mean of the models' softmaxes, float32 [N, classes]; see `predict` and `mix`."""
    return mix(predict(models, batches).log_probs, weights)


def mix(rows: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log of the weighted mean of probabilities.

    Args:
        rows: log-probabilities [N, classes], one tensor per model.
        weights: one non-negative weight per model; they are normalised.

    Raises:
        UserError: not one weight per model, a negative one, or all zero.
    """
    if len(rows) != len(weights) or min(weights) < 0 or sum(weights) <= 0:
        raise UserError(
            f"an ensemble of {len(rows)} models needs as many weights, none negative, not all zero: {list(weights)}"
        )
    kept = [(row, weight) for row, weight in zip(rows, weights, strict=True) if weight > 0]
    total = sum(weights)
    terms = torch.stack([row.double() + math.log(weight / total) for row, weight in kept])
    return terms.logsumexp(dim=0).float()


def score(log_probs: Tensor, labels: Tensor | None = None, reference_log_probs: Tensor | None = None) -> Score:
    """Compare one model's log-probabilities [N, classes] with labels [N] and with a reference [N, classes].

    Labels below 0 stand for unknown, as in the test splits of public benchmarks, and are left out of the accuracy.
    """
    accuracy, labelled = None, 0
    if labels is not None:
        known = labels >= 0
        labelled = int(known.sum())
        if labelled:
            accuracy = (log_probs.argmax(-1) == labels)[known].double().mean().item()
    divergence = None
    if reference_log_probs is not None:
        reference = reference_log_probs.double()
        # A class of probability 0 adds nothing, whatever the model says; 0 · (−∞) would be NaN.
        terms = torch.where(reference.isneginf(), 0.0, reference.exp() * (reference - log_probs.double()))
        # Rounding may leave it a hair below zero.
        divergence = max(terms.sum(-1).mean().item(), 0.0)
    return Score(accuracy, divergence, len(log_probs), labelled)


def _forward(model: PreTrainedModel, inputs: Batch) -> Tensor:
    logits = model(**{name: value.to(model.device) for name, value in inputs.items()}).logits
    if logits.dim() != 2:
        raise UnsupportedError(f"{type(model).__name__} is not a classifier: its logits are {tuple(logits.shape)}")
    return logits.float().log_softmax(-1).cpu()
