"""Scores of embeddings: by the similarities of an ensemble, and by labelled pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressor.bench.answer_tallies import TallySetting
from compressor.bench.value_scores import rank_correlation

#: Nearest neighbours of a text that are compared.
NEAREST = 10
#: Most texts whose pairs are compared: similarities grow with their square.
MOST_COMPARED = 2048


class EmbeddingTally:
    """Rank correlation of similarities, common neighbours, and rank correlation with labels of pairs.

    A labelled pair is two texts in a row; the second has the label [1], the first NaN.
    """

    def __init__(self, setting: TallySetting) -> None:
        self.labelled = 0
        self._rows: list[Tensor] = []
        self._references: list[Tensor] = []
        self._similarities: list[float] = []
        self._labels: list[float] = []
        self._last: Tensor | None = None

    def compare(self, rows: Tensor, reference: Tensor | None) -> None:
        """Add unit vectors [B, d], and the reference's [B, D]."""
        if reference is not None and sum(map(len, self._rows)) < MOST_COMPARED:
            self._rows.append(rows.double())
            self._references.append(reference.double())

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        for index, label in enumerate(labels.flatten().tolist()):
            before = rows[index - 1] if index else self._last
            if math.isfinite(label) and before is not None:
                self._similarities.append(float(rows[index].double() @ before.double()))
                self._labels.append(label)
        self.labelled, self._last = len(self._labels), rows[-1]

    def metrics(self) -> dict[str, Any]:
        """`similarity`, `neighbours` and `spearman` with their standard errors, as far as they are known."""
        scores: dict[str, Any] = {}
        if sum(map(len, self._rows)) > 2:
            rows, reference = torch.cat(self._rows)[:MOST_COMPARED], torch.cat(self._references)[:MOST_COMPARED]
            first, second = (each @ each.T for each in (rows, reference))
            scores |= dict(zip(("similarity", "similarity_error"), _similarity(first, second), strict=True))
            scores |= dict(zip(("neighbours", "neighbours_error"), _neighbours(first, second), strict=True))
        if len(self._labels) > 1:
            values = torch.tensor(self._similarities)[:, None], torch.tensor(self._labels)[:, None]
            scores |= dict(zip(("spearman", "spearman_error"), rank_correlation(*values), strict=True))
        return scores


def _similarity(first: Tensor, second: Tensor) -> tuple[float | None, float | None]:
    """Rank correlation of the pairs of two similarity matrices [N, N]; its error counts texts, not pairs."""
    rows, columns = torch.triu_indices(len(first), len(first), 1)
    pairs = first[rows, columns][:, None], second[rows, columns][:, None]
    return rank_correlation(*pairs, samples=len(first))


def _neighbours(first: Tensor, second: Tensor) -> tuple[float, float | None]:
    """Share of the nearest neighbours of two similarity matrices in common, and its standard error over texts."""
    count = min(NEAREST, len(first) - 1)
    nearest = [torch.zeros_like(each).scatter(1, _nearest(each, count), 1.0) for each in (first, second)]
    shares = (nearest[0] * nearest[1]).sum(1) / count
    error = float(shares.std()) / math.sqrt(len(shares))
    return float(shares.mean()), error


def _nearest(similarities: Tensor, count: int) -> Tensor:
    own = torch.eye(len(similarities), dtype=torch.bool)
    return similarities.masked_fill(own, -math.inf).topk(count, dim=1).indices
