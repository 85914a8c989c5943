"""What was measured: verdict, results, other widths, finetune, formats."""

from __future__ import annotations

import math
from collections.abc import Iterator

from compressor.bench.metrics import METRICS, Metric
from compressor.bench.rows import from_json, table_columns
from compressor.report.curve import curve_metric
from compressor.report.describe import Report, describe_evaluation, describe_macs, describe_timing
from compressor.report.outcome import BACKEND_NAMES, Outcome
from compressor.report.page.charts import Chart, Series, make_chart, row_colour
from compressor.report.tables import FORMAT_TITLES, format_rows

#: Points of the finetune's smoothed line; with fewer steps every step is shown.
_SMOOTHED_POINTS = 20


def verdict(outcome: Outcome) -> str:
    """The outcome in one sentence: score, size and speed against the best teacher."""
    size = f"with {100 * outcome.share('parameters'):.0f} % of a teacher’s parameters"
    for backend, ratio in outcome.speeds.items():
        size += f" and {ratio:.1f} times its speed in {BACKEND_NAMES[backend]}"
    if (metric := outcome.metric) is None:
        return f"The student does the teachers’ job {size}; how well was not measured."
    mine, best = outcome.student[metric.name], outcome.best[metric.name]
    alike = metric.format(mine) == metric.format(best)
    if alike or outcome.within_noise:
        level = "is level with"
    else:
        level = "is ahead of" if metric.is_better(mine, best) else "falls behind"
    figures = f"{metric.title} {metric.format(mine)} against {metric.format(best)}"
    figures += ", lower is better" if metric.lower else ""
    figures += ", within noise" if outcome.within_noise and not alike else ""
    return f"The student {level} {outcome.best_name} ({figures}), {size}."


def result_table(report: Report) -> tuple[list[str], list[tuple[str, ...]]]:
    """Titles and rows."""
    columns = table_columns(from_json(report["table"]))
    return list(columns), list(zip(*columns.values(), strict=True))


def result_notes(report: Report) -> list[str]:
    """What the figures of the table are of."""
    measured, latency = describe_evaluation(report), report.get("latency")
    return [
        *measured,
        *(["KL is to the ensemble’s predictions, in nats"] if measured else []),
        *describe_macs(report),
        *([describe_timing(latency)] if latency else []),
    ]


def cost_charts(report: Report, metric: Metric) -> list[Chart]:
    """Scores over latency (without it, over multiply–accumulates) and over the size of the files, if they are finite."""
    rows = report["table"]
    costs = [("macs", 1e-9, "GMACs per sample (one is two GFLOPs)"), ("bytes", 1e-6, "MB of weights")]
    if timed := [backend for backend in ("ort", "torch") if all(row[f"{backend}_p50_ms"] for row in rows)]:
        batch = report["latency"]["batch_size"]
        costs[0] = (f"{timed[0]}_p50_ms", 1.0, f"ms per batch of {batch}, {BACKEND_NAMES[timed[0]]}")
    charts = []
    for cost, unit, title in costs:
        points = []
        for index, row in enumerate(rows):
            colour, ring = row_colour(report, index)
            place, error = (unit * row[cost], row[metric.name]), row.get(f"{metric.name}_error") or 0.0
            points.append(Series(row["name"], colour, [place], ring=ring, error=error))
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


def format_table(formats: Report) -> tuple[list[str], list[tuple[str, ...]]]:
    """Titles and rows; file names would push the numbers off a phone's screen."""
    rows = [(name, *cells) for name, _, *cells in format_rows(formats)]
    return [title for title in FORMAT_TITLES if title != "files"], rows


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
