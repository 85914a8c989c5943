"""Answers of models that embed images and texts alike: how near each image is to each text of a batch.

Rows [B, 2, D] are the embeddings of an image and of its text, of such lengths that their products are the model's
logits.  Side by side the rows of several models are an embedding whose products are the mean of their logits: an
ensemble is one more model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compressor.ensemble.probabilities import kl_rows, side_by_side
from compressor.models.tasks.task import Task


def batch_logits(rows: Tensor) -> Tensor:
    """Logits of all texts for each image, and of all images for each text [B, 2, B], of rows [B, 2, D] or [2B, D]."""
    images, texts = rows.reshape(-1, 2, rows.shape[-1]).unbind(1)
    logits = images @ texts.T
    return torch.stack([logits, logits.T], dim=1)


class PairAnswers:
    """One text of a batch for each image, one image for each text: two softmaxes."""

    def rows(self, logits: Tensor) -> Tensor:
        return logits

    def mix(self, rows: Sequence[Tensor], weights: Sequence[float], mixing: float = 1.0) -> Tensor:
        """Embeddings side by side: the mean of logits, whatever the mixing."""
        return side_by_side(rows, weights)

    def divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """KL between the choices among the batch's candidates."""
        expected, given = (batch_logits(each.double()).log_softmax(-1) for each in (reference, rows))
        return kl_rows(expected, given).reshape(rows.shape[:-1])

    def agree(self, reference: Tensor, rows: Tensor) -> Tensor | None:
        return (batch_logits(reference).argmax(-1) == batch_logits(rows).argmax(-1)).reshape(rows.shape[:-1])

    def label_loss(self, task: Task, logits: Tensor, labels: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Contrastive: samples of one label (the same text) are as good as each other."""
        logits, labels = task.answered(logits, labels)
        same = (labels.reshape(-1, 1) == labels.reshape(1, -1)).to(logits)
        target = (same / same.sum(-1, keepdim=True))[:, None].expand(-1, 2, -1)
        return functional.cross_entropy(batch_logits(logits).flatten(0, 1), target.flatten(0, 1))

    def softened(self, rows: Tensor, temperature: float) -> Tensor:
        return rows / math.sqrt(temperature)
