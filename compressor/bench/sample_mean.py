"""Means over positions, and their standard errors over samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class SampleMean:
    """A mean over positions whose standard error counts every sample as one draw.

    Tokens of one text depend on each other.  The mean is a ratio of two sums over samples (values and positions), and
    the error is that of a ratio estimator (Cochran, Sampling Techniques, 1977, section 6.3).
    """

    def __init__(self) -> None:
        self._samples = 0
        self._sum = self._positions = 0.0
        self._squares = self._products = self._counts = 0.0

    def add(self, values: Tensor, owners: Tensor) -> None:
        """Add values [P] of samples `owners` [P], numbered from 0 in this call."""
        if not len(values):
            return
        counts = owners.bincount()
        sums = torch.zeros(len(counts), dtype=torch.float64).index_add(0, owners, values.double())
        self.add_sums(sums[counts > 0], counts[counts > 0])

    def add_sums(self, sums: Tensor, counts: Tensor) -> None:
        """Add samples by their sums [S] and counts [S]: the mean is Σ sums / Σ counts."""
        sums, counts = sums.double(), counts.double()
        self._samples += len(counts)
        self._sum += float(sums.sum())
        self._positions += float(counts.sum())
        self._squares += float(sums.square().sum())
        self._products += float((sums * counts).sum())
        self._counts += float(counts.square().sum())

    @property
    def mean(self) -> float | None:
        """None without values."""
        return self._sum / self._positions if self._positions else None

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None with fewer than two samples."""
        mean = self.mean
        if mean is None or self._samples < 2:
            return None
        residual = self._squares - 2 * mean * self._products + mean**2 * self._counts
        # Rounding may make it slightly negative.
        variance = max(residual, 0.0) * self._samples / (self._samples - 1)
        return math.sqrt(variance) / self._positions


def sample_owners(log_probs: Tensor) -> Tensor:
    """The sample of every position: [B, ..., 1] for log-probabilities [B, ..., C]."""
    samples = torch.arange(len(log_probs)).view(-1, *[1] * (log_probs.dim() - 1))
    return samples.expand(*log_probs.shape[:-1], 1)
