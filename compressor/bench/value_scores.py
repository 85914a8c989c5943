"""Scores of answers that are no single class: labels that hold, and values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compressor.bench.sample_mean import SampleMean


class LabelSums:
    """Micro-averaged F1 of labels, with the standard error of a ratio over samples."""

    def __init__(self) -> None:
        self._ratio = SampleMean()

    def add(self, log_odds: Tensor, labels: Tensor) -> None:
        """Add rows [P, C] and labels [P, C] in {0, 1}."""
        predicted, held = log_odds > 0, labels > 0.5
        self._ratio.add_sums(2 * (predicted & held).sum(-1), predicted.sum(-1) + held.sum(-1))

    @property
    def f1(self) -> float:
        """2 · hits / (predicted + true), 1 where there is nothing to find and nothing was found."""
        return 1.0 if self._ratio.mean is None else self._ratio.mean

    @property
    def error(self) -> float | None:
        """Its standard error."""
        return self._ratio.error


class ValueRows:
    """Spearman's rank correlation and the root of the mean squared error of values."""

    def __init__(self) -> None:
        self._predicted: list[Tensor] = []
        self._expected: list[Tensor] = []

    def add(self, values: Tensor, labels: Tensor) -> None:
        """Add rows and labels, [P, C]."""
        self._predicted.append(values.double())
        self._expected.append(labels.double())

    def spearman(self) -> tuple[float | None, float | None]:
        """`rank_correlation` of all values."""
        return rank_correlation(torch.cat(self._predicted), torch.cat(self._expected))

    def rmse(self) -> tuple[float, float | None]:
        """The root mean square error over outputs, and its standard error, to first order."""
        squares = (torch.cat(self._predicted) - torch.cat(self._expected)).square().mean(-1)
        root = math.sqrt(float(squares.mean()))
        if len(squares) < 2 or root == 0:
            return root, None
        return root, float(squares.std()) / math.sqrt(len(squares)) / (2 * root)


def rank_correlation(
    predicted: Tensor, expected: Tensor, samples: int | None = None
) -> tuple[float | None, float | None]:
    """Mean over outputs of Spearman's rank correlation of [P, C], and its standard error; None where not defined.

    The error is Bonett's and Wright's (2000, https://doi.org/10.1007/BF02294183), as if outputs were one.

    Args:
        samples: independent ones among the rows, if fewer.
    """
    # Takes a second to import, and most models have classes.
    from scipy import stats

    count = samples or len(predicted)
    if count < 2 or bool((predicted == predicted[0]).all(0).any()) or bool((expected == expected[0]).all(0).any()):
        return None, None
    pairs = zip(predicted.T.numpy(), expected.T.numpy(), strict=True)
    correlations = [float(stats.spearmanr(first, second).statistic) for first, second in pairs]
    mean = sum(correlations) / len(correlations)
    if count < 4:
        return mean, None
    return mean, (1 - mean**2) * math.sqrt((1 + mean**2 / 2) / (count - 3))
