"""Scores over widths, for a terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from compressor.bench.metrics import METRICS, MISSING, main_metric
from compressor.report.describe import Report
from compressor.report.tables import plain_table


def curve_metric(curve: Report) -> str:
    """The main measured one of accuracy, perplexity, KL."""
    metric = main_metric(curve["rows"][-1])
    return "kl" if metric is None else metric.name


def describe_curve(curve: Report) -> str:
    """What the figures are of."""
    return (
        f"each width is a pilot of {curve['calibration']} samples without a finetune, measured on {curve['data']}: "
        f"{curve['samples']} samples"
    )


def render_curve(curve: Report) -> list[RenderableType]:
    """A row per teacher and width, and what they are of."""
    metric = curve_metric(curve)
    titles = [*([] if metric == "kl" else [METRICS[metric].title]), "KL", "params (M)", "GMACs"]
    table = plain_table("pilot", *titles, numbers=len(titles))
    for row in curve["rows"]:
        scores = [] if metric == "kl" else [format_curve_score(row[metric], metric)]
        kl = MISSING if row["kl"] is None else f"{row['kl']:.3f}"
        table.add_row(
            Text(row["name"]), *scores, kl, f"{row['parameters'] / 1e6:.3f}", f"{row['macs'] / 1e9:.4f}"
        )  # fmt: skip
    return [table, describe_curve(curve)]


def format_curve_score(value: float | None, metric: str) -> str:
    """A score with its unit."""
    if value is None:
        return MISSING
    return METRICS[metric].format(value)
