"""The table of metrics: title, direction and form of every score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: Text of a missing value.
MISSING = "–"


@dataclass(frozen=True)
class Metric:
    """One metric of a `Score` and a row.

    Attributes:
        name: of the field; its standard error is `{name}_error`, where there is one.
        title: of a column.
        text: of a value and its standard error, perhaps None.
        lower: whether lower is better.
        percent: whether values are shares.
        log: whether differences count in logarithms.
    """

    name: str
    title: str
    text: Callable[[float, float | None], str]
    lower: bool = False
    percent: bool = False
    log: bool = False

    def format(self, value: float | None, error: float | None = None) -> str:
        """A value as text, with "± error" if known."""
        return MISSING if value is None else self.text(value, error)

    @property
    def label(self) -> str:
        """The title, with the direction where it is down."""
        return f"{self.title} (lower is better)" if self.lower else self.title

    def is_better(self, first: float, second: float) -> bool:
        """Whether the first value is better than the second."""
        return first < second if self.lower else first > second

    @property
    def best(self) -> Callable[..., Any]:
        """`min` or `max`."""
        return min if self.lower else max

    @property
    def worst(self) -> Callable[..., Any]:
        """`max` or `min`."""
        return max if self.lower else min


def format_accuracy(value: float | None, error: float | None = None) -> str:
    """Such as "61.3 ± 0.5 %"."""
    if value is None:
        return MISSING
    return f"{100 * value:.1f} %" if error is None else f"{100 * value:.1f} ± {100 * error:.1f} %"


def format_perplexity(value: float | None, error: float | None = None) -> str:
    """Two decimals; from 1000 three digits."""
    if value is None:
        return MISSING
    if value >= 1000:
        return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.1g}"
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def _decimals(value: float, error: float | None) -> str:
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def _digits(value: float, error: float | None) -> str:
    return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.2g}"


#: The main one of a row is the first that it has.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("miou", "mean IoU", format_accuracy, percent=True),
        Metric("map", "mAP", format_accuracy, percent=True),
        Metric("map50", "mAP at 0.5", format_accuracy, percent=True),
        Metric("accuracy", "accuracy", format_accuracy, percent=True),
        Metric("recall5", "recall@5", format_accuracy, percent=True),
        Metric("recall1_images", "recall@1 of images", format_accuracy, percent=True),
        Metric("exact_match", "exact match", format_accuracy, percent=True),
        Metric("wer", "word errors", format_accuracy, lower=True, percent=True),
        Metric("cer", "character errors", format_accuracy, lower=True, percent=True),
        Metric("perplexity", "perplexity", format_perplexity, lower=True, log=True),
        Metric("spearman", "Spearman", _decimals),
        Metric("similarity", "similarity", _decimals),
        Metric("neighbours", "neighbours", format_accuracy, percent=True),
        Metric("f1", "F1", _decimals),
        Metric("rmse", "RMSE", _digits, lower=True),
    )
}


def format_precise(metric: Metric, value: float | None) -> str:
    """A value whose last digits count: formats of one model differ little."""
    return f"{100 * value:.2f} %" if metric.percent and value is not None else metric.format(value)


def main_metric(*rows: Mapping[str, Any]) -> Metric | None:
    """The first metric that all rows have."""
    return next((m for name, m in METRICS.items() if all(row.get(name) is not None for row in rows)), None)
