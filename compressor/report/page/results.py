"""What was measured: verdict, results, other widths, finetune, formats."""

from __future__ import annotations

import math
from collections.abc import Iterator

from compressor.bench.metrics import METRICS, Metric, main_metric
from compressor.bench.rows import from_json, table_columns
from compressor.report.curve import curve_metric, describe_curve
from compressor.report.describe import (
    Report,
    describe_evaluation,
    describe_finetune,
    describe_macs,
    describe_temperature,
    describe_timing,
)
from compressor.report.outcome import BACKEND_NAMES, Outcome
from compressor.report.page.charts import Chart, Series, make_chart, row_colour
from compressor.report.tables import FORMAT_NOTES, FORMAT_TITLES, format_rows

#: Points of the finetune's smoothed line; with fewer steps every step is shown.
_SMOOTHED_POINTS = 20


def verdict(report: Report) -> str:
    """The outcome in one sentence: score, size and speed against the best teacher."""
    outcome = Outcome.from_report(report)
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


def results_section(report: Report) -> Report:
    """The table with notes, and scores over latency and size."""
    rows, metric = report["table"], main_metric(*report["table"])
    cells = table_columns(from_json(rows))
    measured, latency = describe_evaluation(report), report.get("latency")
    return {
        "titles": list(cells),
        "rows": list(zip(*cells.values(), strict=True)),
        "notes": [
            *measured,
            *(["KL is to the ensemble’s predictions, in nats"] if measured else []),
            *describe_macs(report),
            *([describe_timing(latency)] if latency else []),
        ],
        "charts": [chart for chart in _cost_charts(report, metric) if chart] if metric else [],
        "metric": metric,
        "errors": metric and any(row.get(f"{metric.name}_error") for row in rows),
    }


def curve_section(report: Report) -> Report:
    """Scores of pilots of several widths, if they were asked for."""
    if not (curve := report.get("curve")):
        return {}
    metric = curve_metric(curve)
    points = [
        Series(row["name"], "--accent" if row["width"] else "--calm", [(row["parameters"] / 1e6, row[metric])])
        for row in curve["rows"]
        if row["name"] != "ensemble" and row[metric] is not None
    ]
    title = {"kl": "KL to the ensemble, in nats"}.get(metric, metric)
    percent = metric in METRICS and METRICS[metric].percent
    chart = make_chart(points, "M parameters", title, of_costs=True, percent=percent)
    return {"chart": chart, "text": describe_curve(curve)}


def finetune_section(report: Report) -> Report:
    """The finetune's losses, and notes on it."""
    finetune = report.get("finetune")
    if not finetune or not finetune["loss"]:
        return {}
    return {
        "chart": make_chart(_loss_lines(finetune), "step", "loss"),
        "temperature": describe_temperature(finetune),
        "notes": describe_finetune(finetune),
    }


def formats_section(report: Report) -> Report:
    """Export formats, unless only float32 ONNX."""
    formats = report.get("formats") or {}
    if not set(formats) - {"onnx"}:
        return {}
    # File names would push the numbers off a phone's screen.
    rows = [(name, *cells) for name, _, *cells in format_rows(formats)]
    return {"titles": [title for title in FORMAT_TITLES if title != "files"], "rows": rows, "note": FORMAT_NOTES}


def _cost_charts(report: Report, metric: Metric) -> Iterator[Chart | None]:
    """Scores over latency (without it, over multiply–accumulates) and over the size of the files."""
    rows = report["table"]
    costs = [("macs", 1e-9, "GMACs per sample (one is two GFLOPs)"), ("bytes", 1e-6, "MB of weights")]
    if timed := [backend for backend in ("ort", "torch") if all(row[f"{backend}_p50_ms"] for row in rows)]:
        batch = report["latency"]["batch_size"]
        costs[0] = (f"{timed[0]}_p50_ms", 1.0, f"ms per batch of {batch}, {BACKEND_NAMES[timed[0]]}")
    for cost, unit, title in costs:
        points = []
        for index, row in enumerate(rows):
            colour, ring = row_colour(report, index)
            place, error = (unit * row[cost], row[metric.name]), row.get(f"{metric.name}_error") or 0.0
            points.append(Series(row["name"], colour, [place], ring=ring, error=error))
        points += _format_points(report, metric.name, cost)
        yield make_chart(points, title, metric.label, of_costs=True, percent=metric.percent)


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


def _loss_lines(finetune: Report) -> list[Series]:
    curve = finetune["loss"]
    lines = [Series("each step", "--accent", curve, dots=True)]
    if (window := math.ceil(len(curve) / _SMOOTHED_POINTS)) > 1:
        parts = [curve[start : start + window] for start in range(0, len(curve), window)]
        means = [tuple(sum(column) / len(part) for column in zip(*part, strict=True)) for part in parts]
        lines = [Series("each step", "--calm", curve, faint=True), Series(f"mean of {window} steps", "--accent", means)]
    if validation := finetune.get("judged"):
        lines.append(Series(f"{finetune['validation_samples']} held-out samples", "--warm", validation, dots=True))
    return lines
