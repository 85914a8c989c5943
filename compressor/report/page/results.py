"""What was measured: scores over costs, other widths, losses, formats, and what changed by group."""

from __future__ import annotations

import math
from collections.abc import Iterator

from compressor.bench.metrics import METRICS, Metric, format_accuracy
from compressor.report.curve import curve_metric
from compressor.report.describe import Report
from compressor.report.outcome import BACKEND_NAMES
from compressor.report.page.charts import AxisScale, Chart, Series, make_chart, row_colours

#: Most groups of a chart, as many worst as best; tables have all groups.
_SHOWN_GROUPS = 16
#: {kind of group: what its rows are}, where it is not the kind.
_KINDS = {"position": "position in the text, in tokens", "length": "length of the text, in tokens"}
#: Points of the finetune's smoothed line; with fewer steps every step is shown.
_SMOOTHED_POINTS = 20


def cost_charts(report: Report, metric: Metric) -> list[Chart]:
    """Scores over latency (without it, over multiply–accumulates) and over the files’ sizes, where finite."""
    rows, error = report["table"], f"{metric.name}_error"
    costs = [("macs", 1e-9, "GMACs per sample (one is two GFLOPs)"), ("bytes", 1e-6, "MB of weights")]
    if timed := [backend for backend in ("ort", "torch") if all(row[f"{backend}_p50_ms"] for row in rows)]:
        batch = report["latency"]["batch_size"]
        costs[0] = (f"{timed[0]}_p50_ms", 1.0, f"ms per batch of {batch}, {BACKEND_NAMES[timed[0]]}")
    charts = []
    for cost, unit, title in costs:
        points = [
            Series(row["name"], colour, [(unit * row[cost], row[metric.name])], ring=ring, error=row.get(error) or 0.0)
            for row, (colour, ring) in zip(rows, row_colours(report), strict=True)
        ]
        points += _format_points(report, metric.name, cost)
        charts.append(make_chart(points, title, metric.label, of_costs=True, percent=metric.percent))
    return [chart for chart in charts if chart]


def curve_chart(curve: Report) -> Chart | None:
    """Scores of pilots of several widths."""
    metric = curve_metric(curve)
    points = [
        Series(row["name"], "--accent" if row["width"] else "--calm", [(row["parameters"] / 1e6, row[metric])])
        for row in curve["rows"]
        if row["name"] != "ensemble" and row[metric] is not None
    ]
    title = {"kl": "KL to the ensemble, in nats"}.get(metric, metric)
    percent = metric in METRICS and METRICS[metric].percent
    return make_chart(points, "M parameters", title, of_costs=True, percent=percent)


def loss_chart(finetune: Report) -> Chart | None:
    """The loss of each step, smoothed if there are many, and of held-out samples."""
    curve = finetune["loss"]
    lines = [Series("each step", "--accent", curve, dots=True)]
    if (window := math.ceil(len(curve) / _SMOOTHED_POINTS)) > 1:
        parts = [curve[start : start + window] for start in range(0, len(curve), window)]
        means = [tuple(sum(column) / len(part) for column in zip(*part, strict=True)) for part in parts]
        lines = [Series("each step", "--calm", curve, faint=True), Series(f"mean of {window} steps", "--accent", means)]
    if validation := finetune.get("judged"):
        lines.append(Series(f"{finetune['validation_samples']} held-out samples", "--warm", validation, dots=True))
    return make_chart(lines, "step", "loss")


def metric_of(differences: Report) -> Metric:
    """What the scores of groups are; without labels, the share of answers that are also the ensemble's."""
    name = differences["metric"]
    return METRICS.get(name) or Metric(name, name, format_accuracy, percent=True)


def group_rows(differences: Report, group: Report) -> list[tuple[str, ...]]:
    """Rows of the table of all groups."""
    score = metric_of(differences).format
    return [(row["name"], row["count"], *map(score, row["scores"])) for row in group["rows"]]


def group_chart(report: Report, group: Report) -> Report:
    """A row per group; of many, the worst and the best; nothing without scores."""
    differences, teachers, half = report["differences"], len(report["recipe"]["teachers"]), _SHOWN_GROUPS // 2
    metric, models, colours = metric_of(differences), differences["models"], row_colours(report)
    student, reference = len(models) - 1, teachers if teachers > 1 and models[teachers] == "ensemble" else 0
    caption = f"By {_KINDS.get(group['by'], group['by'])}: {metric.label}"
    rows = [row for row in group["rows"] if all(score is not None and math.isfinite(score) for score in row["scores"])]
    if not rows:
        return {}
    if len(rows) > _SHOWN_GROUPS:
        rows = sorted(rows, key=lambda row: row["scores"][student] - row["scores"][reference])
        rows = rows[:half] + rows[-half:]
        caption += f"; {half} groups with the largest loss, {half} with the largest gain"
    # The reference and the student come last, and are joined.
    order = sorted(range(len(models)), key=[reference, student].__contains__)
    values = [score for row in rows for score in row["scores"]]
    return {
        "rows": [(row["name"], [row["scores"][index] for index in order]) for row in rows],
        "key": [(models[index], *colours[index]) for index in order],
        "scale": AxisScale.over(values, margin=0.06, percent=metric.percent),
        "caption": caption,
    }


def _format_points(report: Report, metric: str, cost: str) -> Iterator[Series]:
    """The student's files: inexact ones with scores of their own, exact ones with the student's."""
    student = report["table"][-1]
    timed = (report.get("latency") or {}).get("models", {})
    for name, exported in (report.get("formats") or {}).items():
        score = (exported.get("evaluation") or {}).get(metric, student[metric] if exported.get("exact") else None)
        in_ort = timed.get(f"{student['name']} ({name})", {}).get("onnxruntime") or {}
        costs = {"bytes": exported["bytes"] / 1e6, "ort_p50_ms": in_ort.get("p50_ms")}
        if score is not None and costs.get(cost):
            yield Series(name, "--accent", [(costs[cost], score)], ring=True)
