"""Scores of labelled answers: classes, tokens, labels and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from compressor.bench.sample_mean import SampleMean, sample_owners
from compressor.bench.value_scores import LabelSums, ValueRows
from compressor.models.tasks.task import Task
from compressor.utils.strict_json import finite_or_none

#: Largest exponent whose exp is a float64.
MAX_EXPONENT = 700.0


@dataclass(frozen=True)
class TallySetting:
    """What scores need besides answers.

    Attributes:
        outside: a tagger's class "O", which F1 leaves out.
        references: of the samples in their order, where labels do not say all (`TaskData.references`).
        model: whose answers these are, where it can say more than them; None for ensembles and files.
    """

    task: Task
    outside: int | None = None
    references: Any = None
    model: Any = None


class AnswerTally(Protocol):
    """Sums over labelled answers of one model."""

    @property
    def labelled(self) -> int:
        """Answers with a known label."""
        ...

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        """Add a batch: rows [B, ..., C] of `ensemble.answers`, labels as of `Task.answered`, number of its first."""
        ...

    def metrics(self) -> dict[str, Any]:
        """Metrics of `compressor.bench.metrics` and fields of `Score`, of at least one labelled answer."""
        ...


class ClassTally:
    """Accuracy, F1 and the share of the commonest class."""

    def __init__(self, setting: TallySetting) -> None:
        self.task, self.outside = setting.task, setting.outside
        self.labelled = 0
        self._correct = self._predicted = self._true = torch.zeros(0, dtype=torch.int64)

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        rows, labels = self.task.answered(rows, labels)
        self.labelled += len(labels)
        classes, predicted = rows.shape[-1], rows.argmax(-1)
        if not len(self._correct):
            self._correct = self._predicted = self._true = torch.zeros(classes, dtype=torch.int64)
        # Labels of classes that the model lacks count as wrong.
        self._correct = self._correct + labels[predicted == labels].bincount(minlength=classes)
        self._predicted = self._predicted + predicted.bincount(minlength=classes)
        self._true = self._true + labels[labels < classes].bincount(minlength=classes)

    def metrics(self) -> dict[str, Any]:
        return {
            "accuracy": int(self._correct.sum()) / self.labelled,
            "f1": self._f1() if "f1" in self.task.metrics else None,
            "majority": int(self._true.max()) / self.labelled,
        }

    def _f1(self) -> float:
        hits, total = 2 * self._correct.double(), (self._predicted + self._true).double()
        if self.task.mask is not None:
            entities = torch.ones(len(hits), dtype=torch.bool)
            if self.outside is not None:
                entities[self.outside] = False
            hits, total = hits[entities].sum()[None], total[entities].sum()[None]
        elif len(hits) == 2:
            hits, total = hits[1:], total[1:]
        else:
            hits, total = hits[total > 0], total[total > 0]
        return (hits / total.clamp(min=1)).mean().item() if len(hits) else 0.0


class TokenTally:
    """Perplexity: exp of the labels' mean −log p."""

    def __init__(self, setting: TallySetting) -> None:
        self.task, self.labelled, self._nll = setting.task, 0, SampleMean()

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        owners, _ = self.task.answered(sample_owners(rows), labels)
        rows, labels = self.task.answered(rows, labels)
        self.labelled += len(labels)
        self._nll.add(-rows.gather(-1, labels[:, None])[:, 0], owners[:, 0])

    def metrics(self) -> dict[str, Any]:
        perplexity = math.exp(min(self._nll.mean or 0.0, MAX_EXPONENT))
        # To first order the error of exp(x) is exp(x) times that of x.
        error = None if self._nll.error is None else finite_or_none(perplexity * self._nll.error)
        return {"perplexity": perplexity, "perplexity_error": error}


class LabelTally:
    """F1 of labels that hold."""

    def __init__(self, setting: TallySetting) -> None:
        self.task, self.labelled, self._sums = setting.task, 0, LabelSums()

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        rows, labels = self.task.answered(rows, labels)
        self.labelled += len(labels)
        self._sums.add(rows, labels)

    def metrics(self) -> dict[str, Any]:
        return {"f1": self._sums.f1, "f1_error": self._sums.error}


class ValueTally:
    """Rank correlation and error of values."""

    def __init__(self, setting: TallySetting) -> None:
        self.task, self.labelled, self._values = setting.task, 0, ValueRows()

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        rows, labels = self.task.answered(rows, labels)
        self.labelled += len(labels)
        self._values.add(rows, labels)

    def metrics(self) -> dict[str, Any]:
        (spearman, spearman_error), (rmse, rmse_error) = self._values.spearman(), self._values.rmse()
        return {"spearman": spearman, "spearman_error": spearman_error, "rmse": rmse, "rmse_error": rmse_error}
