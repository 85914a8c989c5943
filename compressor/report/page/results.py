"""What was measured: verdict, results, other widths, finetune, formats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

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
from compressor.report.page.charts import Chart, ChartPoint, Line, line_chart, row_colour, scatter_chart
from compressor.report.page.elements import Element, Group, PageTable, Text
from compressor.report.tables import FORMAT_NOTES, FORMAT_TITLES, format_rows

#: Points of the finetune's smoothed line; with fewer steps every step is shown.
_SMOOTHED_POINTS = 20


def sentence(text: str) -> str:
    """A text as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def verdict(report: Report) -> str:
    """The outcome in one sentence: score, size and speed against the best teacher."""
    outcome = Outcome.from_report(report)
    size = f"with {100 * outcome.share('parameters'):.0f} % of a teacher’s parameters"
    size += "".join(
        f" and {ratio:.1f} times its speed in {BACKEND_NAMES[name]}" for name, ratio in outcome.speeds.items()
    )
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


def headline_figures(report: Report) -> list[tuple[str, str]]:
    """(value, label): size, score, speed."""
    outcome = Outcome.from_report(report)
    figures = [
        (
            f"{100 * outcome.share('parameters'):.0f} %",
            f"of a teacher’s {outcome.largest['parameters'] / 1e6:.3g} M parameters",
        ),
        (f"{100 * outcome.share('macs'):.0f} %", "of its multiply–accumulates"),
    ]
    if (metric := outcome.metric) is not None:
        label = f"{metric.title}; {outcome.best_name} has {metric.format(outcome.best[metric.name])}"
        figures.append((metric.format(outcome.student[metric.name]), label))
    speeds = outcome.speeds.items()
    return figures + [(f"{ratio:.1f}×", f"as fast as a teacher in {BACKEND_NAMES[name]}") for name, ratio in speeds]


def results_section(report: Report) -> list[Element]:
    """The table, and scores over latency and size."""
    cells = table_columns(from_json(report["table"]))
    table = PageTable(list(cells), list(zip(*cells.values(), strict=True)), mark_last=True)
    notes = [*describe_evaluation(report), *describe_macs(report)]
    if report.get("evaluation"):
        notes.insert(1, "KL is to the ensemble’s predictions, in nats")
    if report.get("latency"):
        notes.append(describe_timing(report["latency"]))
    elements: list[Element] = [table, Text(" ".join(map(sentence, notes)))]
    metric = main_metric(*report["table"])
    if metric and (charts := list(_cost_charts(report, metric))):
        note = f"Left and {'down' if metric.lower else 'up'} is better."
        if any(row.get(f"{metric.name}_error") for row in report["table"]):
            note += " Bars are one standard error to both sides."
        elements += [Group("columns", charts), Text(note)]
    return elements


def curve_section(report: Report) -> list[Element]:
    """Scores of pilots of several widths, if they were asked for."""
    if not (curve := report.get("curve")):
        return []
    metric = curve_metric(curve)
    points = [
        ChartPoint(row["name"], row["parameters"] / 1e6, row[metric], 0.0, "--accent" if row["width"] else "--calm")
        for row in curve["rows"]
        if row["name"] != "ensemble" and row[metric] is not None
    ]
    title = {"kl": "KL to the ensemble, in nats"}.get(metric, metric)
    charts = scatter_chart(points, "M parameters", title, percent=metric in METRICS and METRICS[metric].percent)
    return [Group("columns", [*charts, [sentence(describe_curve(curve))]])]


def finetune_section(report: Report) -> list[Element]:
    """The finetune's settings and loss."""
    finetune = report.get("finetune")
    if not finetune or not finetune["loss"]:
        return []
    curve = [(float(step), float(loss)) for step, loss in finetune["loss"]]
    options = report["recipe"]["finetune"]
    losses = {"the distillation from the ensemble": "distil_weight", "the cross-entropy with labels": "label_weight"}
    text = (
        f"{finetune['steps']} steps of {options['batch_size']} samples in {finetune['seconds']:.0f} s, peak learning "
        f"rate {finetune['learning_rate']:g}{describe_temperature(finetune)}; the loss is "
        f"{' and '.join(name for name, weight in losses.items() if options[weight])}, "
        f"{curve[0][1]:.4g} at the first step and {curve[-1][1]:.4g} at the last."
    )
    chart = line_chart(_loss_lines(finetune, curve), "step", "loss", text)
    return [Group("columns", [*chart, [text, *map(sentence, describe_finetune(finetune))]])]


def formats_section(report: Report) -> list[Element]:
    """Export formats, unless only float32 ONNX."""
    formats = report.get("formats") or {}
    if not set(formats) - {"onnx"}:
        return []
    # File names would push the numbers off a phone's screen.
    rows = [(name, *cells) for name, _, *cells in format_rows(formats)]
    return [PageTable([title for title in FORMAT_TITLES if title != "files"], rows), Text(FORMAT_NOTES)]


def _cost_charts(report: Report, metric: Metric) -> Iterator[Chart]:
    """Scores over latency (without it, over multiply–accumulates) and over the size of the files."""
    rows = report["table"]
    costs = [("macs", 1e-9, "GMACs per sample (one is two GFLOPs)"), ("bytes", 1e-6, "MB of weights")]
    if timed := [backend for backend in ("ort", "torch") if all(row[f"{backend}_p50_ms"] for row in rows)]:
        batch = report["latency"]["batch_size"]
        costs[0] = (f"{timed[0]}_p50_ms", 1.0, f"ms per batch of {batch}, {BACKEND_NAMES[timed[0]]}")
    for cost, unit, title in costs:
        points = []
        for index, row in enumerate(rows):
            error = row.get(f"{metric.name}_error") or 0.0
            points.append(
                ChartPoint(row["name"], unit * row[cost], row[metric.name], error, *row_colour(report, index))
            )
        points += _format_points(report, metric.name, cost)
        yield from scatter_chart(points, title, metric.label, percent=metric.percent)


def _format_points(report: Report, metric: str, cost: str) -> Iterator[ChartPoint]:
    """The student's files: inexact ones with scores of their own, exact ones with the student's."""
    student = report["table"][-1]
    timed = (report.get("latency") or {}).get("models", {})
    for name, exported in (report.get("formats") or {}).items():
        score = (exported.get("evaluation") or {}).get(metric, student[metric] if exported.get("exact") else None)
        in_ort = timed.get(f"{student['name']} ({name})", {}).get("onnxruntime") or {}
        costs = {"bytes": exported["bytes"] / 1e6, "ort_p50_ms": in_ort.get("p50_ms")}
        if score is not None and costs.get(cost):
            yield ChartPoint(name, costs[cost], score, 0.0, "--accent", True)


def _loss_lines(finetune: Report, curve: Sequence[tuple[float, float]]) -> list[Line]:
    lines = [Line("each step", curve, dots=True)]
    if (window := math.ceil(len(curve) / _SMOOTHED_POINTS)) > 1:
        parts = [curve[start : start + window] for start in range(0, len(curve), window)]
        means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
        lines = [Line("each step", curve, "--calm", faint=True), Line(f"mean of {window} steps", means)]
    if validation := [(float(step), float(loss)) for step, loss in finetune.get("judged") or []]:
        lines.append(Line(f"{finetune['validation_samples']} held-out samples", validation, "--warm", dots=True))
    return lines
