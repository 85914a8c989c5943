"""What was measured: verdict, results, finetune, formats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from compressor.bench.metrics import METRICS, main_metric
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
from compressor.report.findings import NOISE_ERRORS
from compressor.report.page.charts import TEACHER_COLOURS, ChartPoint, Line, Plot, line_chart, scatter_chart
from compressor.report.page.table import PageTable
from compressor.report.tables import FORMAT_NOTES, FORMAT_TITLES, format_rows

#: Points of the finetune's smoothed line; with fewer steps every step is shown.
_SMOOTHED_POINTS = 20
_BACKENDS = {"ort": "ONNX Runtime", "torch": "torch"}


def metric_of(report: Report) -> str | None:
    """The metric of all models, if any."""
    metric = main_metric(*report["table"])
    return None if metric is None else metric.name


def sentence(text: str) -> str:
    """A text as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def verdict(report: Report) -> str:
    """The outcome in one sentence: score, size and speed against the best teacher."""
    rows, student = report["table"], report["table"][-1]
    teachers = rows[: len(report["recipe"]["teachers"])]
    largest = max(teachers, key=lambda row: row["parameters"])
    size = f"with {_percent(student['parameters'] / largest['parameters'])} of a teacher’s parameters"
    speed = "".join(f" and {ratio:.1f} times its speed in {name}" for ratio, name in _speeds(report))
    best = _best_teacher(report)
    metric = metric_of(report)
    if metric is None:
        return f"The student does the teachers’ job {size}{speed}; how well was not measured."
    score = METRICS[metric]
    better = score.best
    teacher = better(teachers, key=lambda row: row[metric])
    mine, theirs = student[metric], teacher[metric]
    figures = f"{score.title} {score.format(mine)} against {score.format(theirs)}"
    figures += ", lower is better" if score.lower else ""
    noise = NOISE_ERRORS * math.hypot(*(standard_error(report, row, metric) for row in (student, teacher)))
    level = "is ahead of" if better(mine, theirs) == mine else "falls behind"
    if mine == theirs:
        level = "is level with"
    elif abs(mine - theirs) <= noise:
        level, figures = "is level with", f"{figures}, within noise"
    return f"The student {level} {best} ({figures}), {size}{speed}."


def headline_figures(report: Report) -> list[tuple[str, str]]:
    """(value, label): size, score, speed."""
    rows, student = report["table"], report["table"][-1]
    teachers = rows[: len(report["recipe"]["teachers"])]
    largest = max(teachers, key=lambda row: row["parameters"])
    figures = [
        (_percent(student["parameters"] / largest["parameters"]),
         f"of a teacher’s {largest['parameters'] / 1e6:.3g} M parameters"),
        (_percent(student["macs"] / largest["macs"]), "of its multiply–accumulates"),
    ]  # fmt: skip
    metric = metric_of(report)
    teacher = _best_teacher(report)
    if metric is not None:
        score = METRICS[metric]
        best = score.format(score.best(row[metric] for row in teachers))
        figures.append((score.format(student[metric]), f"{score.title}; {teacher} has {best}"))
    figures += [(f"{ratio:.1f}×", f"as fast as a teacher in {name}") for ratio, name in _speeds(report)]
    return figures


def results_view(report: Report) -> dict[str, Any]:
    """The table, and scores over latency and size."""
    cells = table_columns(from_json(report["table"]))
    table = PageTable(list(cells), list(zip(*cells.values(), strict=True)), mark_last=True)
    notes = [*describe_evaluation(report), *describe_macs(report)]
    if report.get("evaluation"):
        notes.insert(1, "KL is to the ensemble’s predictions, in nats")
    if report.get("latency"):
        notes.append(describe_timing(report["latency"]))
    metric = metric_of(report)
    note = f"Left and {'down' if metric and METRICS[metric].lower else 'up'} is better."
    if metric and any(standard_error(report, row, metric) for row in report["table"]):
        note += " Bars are one standard error to both sides."
    charts = [] if metric is None else list(_cost_charts(report, metric))
    return {"table": table, "notes": list(map(sentence, notes)), "charts": charts, "chart_note": note}


def curve_view(report: Report) -> dict[str, Any] | None:
    """Scores of pilots of several widths, if they were asked for."""
    if not (curve := report.get("curve")):
        return None
    metric, points = curve_metric(curve), []
    for row in curve["rows"]:
        colour = "--calm" if row["width"] is None else "--accent"
        if row["name"] != "ensemble" and row[metric] is not None:
            points.append(ChartPoint(row["name"], row["parameters"] / 1e6, row[metric], 0.0, colour))
    title = {"kl": "KL to the ensemble, in nats"}.get(metric, metric)
    chart = scatter_chart(points, "M parameters", title, percent=metric in METRICS and METRICS[metric].percent)
    return {"charts": [chart] if chart else [], "text": sentence(describe_curve(curve))}


def finetune_view(report: Report) -> dict[str, Any] | None:
    """The finetune's settings and loss."""
    finetune = report.get("finetune")
    if not finetune or not finetune["loss"]:
        return None
    curve = [(float(step), float(loss)) for step, loss in finetune["loss"]]
    options = report["recipe"]["finetune"]
    losses = [
        *(["the distillation from the ensemble"] if options["distil_weight"] else []),
        *(["the cross-entropy with labels"] if options["label_weight"] else []),
    ]
    text = (
        f"{finetune['steps']} steps of {options['batch_size']} samples in {finetune['seconds']:.0f} s, peak learning "
        f"rate {finetune['learning_rate']:g}{describe_temperature(finetune)}; the loss is {' and '.join(losses)}, "
        f"{curve[0][1]:.4g} at the first step and {curve[-1][1]:.4g} at the last."
    )
    lines, key = _loss_lines(finetune, curve)
    chart = line_chart(lines, "step", "loss", text)
    if chart is not None:
        chart.key = key
    return {"chart": chart, "notes": [text, *map(sentence, describe_finetune(finetune))]}


def formats_view(report: Report) -> dict[str, Any] | None:
    """Export formats, unless only float32 ONNX."""
    formats = report.get("formats") or {}
    if not set(formats) - {"onnx"}:
        return None
    # File names would push the numbers off a phone's screen.
    rows = [(name, *cells) for name, _, *cells in format_rows(formats)]
    return {"table": PageTable([title for title in FORMAT_TITLES if title != "files"], rows), "note": FORMAT_NOTES}


def standard_error(report: Report, row: Report, metric: str) -> float:
    """The row's standard error; of former reports an accuracy's over samples, and 0 over dependent tokens."""
    if (error := row.get(f"{metric}_error")) is not None:
        return error
    if metric != "accuracy" or not _counts_samples(report):
        return 0.0
    return math.sqrt(row[metric] * (1 - row[metric]) / report["evaluation"]["labelled"])


def row_colour(report: Report, index: int) -> tuple[str, bool]:
    """Colour of a row of the table, and whether it is drawn as a ring: teachers, ensemble, students, result."""
    rows, teachers = report["table"], len(report["recipe"]["teachers"])
    if index == len(rows) - 1:
        return "--accent", False
    if index < teachers:
        return TEACHER_COLOURS[index % len(TEACHER_COLOURS)], False
    return ("--ink", True) if rows[index]["name"] == "ensemble" else ("--warm", False)


def _best_teacher(report: Report) -> str:
    count = len(report["recipe"]["teachers"])
    return {1: "the teacher", 2: "the better teacher"}.get(count, "the best teacher")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _speeds(report: Report) -> Iterator[tuple[float, str]]:
    """(times as fast as the largest teacher, backend), ONNX Runtime first."""
    student = report["table"][-1]
    teachers = report["table"][: len(report["recipe"]["teachers"])]
    largest = max(teachers, key=lambda row: row["parameters"])
    for backend, name in _BACKENDS.items():
        if student[f"{backend}_p50_ms"] and largest[f"{backend}_p50_ms"]:
            yield largest[f"{backend}_p50_ms"] / student[f"{backend}_p50_ms"], name


def _cost_charts(report: Report, metric: str) -> Iterator[Plot]:
    """Scores over latency (without it, over multiply–accumulates) and over the size of the files."""
    rows = report["table"]
    title = METRICS[metric].label
    timed = [backend for backend in _BACKENDS if all(row[f"{backend}_p50_ms"] for row in rows)]
    if timed:
        batch = report["latency"]["batch_size"]
        first = (f"{timed[0]}_p50_ms", 1.0, f"ms per batch of {batch}, {_BACKENDS[timed[0]]}")
    else:
        first = ("macs", 1e-9, "GMACs per sample (one is two GFLOPs)")
    for cost, unit, x_title in (first, ("bytes", 1e-6, "MB of weights")):
        points = []
        for index, row in enumerate(rows):
            colour, hollow = row_colour(report, index)
            error = standard_error(report, row, metric)
            points.append(ChartPoint(row["name"], unit * row[cost], row[metric], error, colour, hollow))
        points += _format_points(report, metric, cost)
        if chart := scatter_chart(points, x_title, title, percent=METRICS[metric].percent):
            yield chart


def _format_points(report: Report, metric: str, cost: str) -> Iterator[ChartPoint]:
    """The student's files: inexact ones with scores of their own, exact ones with the student's."""
    student = report["table"][-1]
    timed = (report.get("latency") or {}).get("models", {})
    for name, exported in (report.get("formats") or {}).items():
        score = (exported.get("evaluation") or {}).get(metric)
        if score is None and exported.get("exact"):
            score = student[metric]
        in_ort = timed.get(f"{student['name']} ({name})", {}).get("onnxruntime")
        if cost == "bytes":
            value = exported["bytes"] / 1e6
        elif cost == "ort_p50_ms" and in_ort:
            value = in_ort["p50_ms"]
        else:
            continue
        if score is not None:
            yield ChartPoint(name, value, score, 0.0, "--accent", True)


def _counts_samples(report: Report) -> bool:
    evaluation = report.get("evaluation") or {"labelled": 0, "samples": 0}
    return 0 < evaluation["labelled"] <= evaluation["samples"]


def _loss_lines(finetune: Report, curve: Sequence[tuple[float, float]]) -> tuple[list[Line], list[tuple[str, str]]]:
    """Lines of the loss, and their legend."""
    lines, key = [Line(curve, dots=True)], [("each step", "--accent")]
    if (window := math.ceil(len(curve) / _SMOOTHED_POINTS)) > 1:
        parts = [curve[start : start + window] for start in range(0, len(curve), window)]
        means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
        lines = [Line(curve, "--calm", faint=True), Line(means)]
        key = [("each step", "--calm"), (f"mean of {window} steps", "--accent")]
    if validation := [(float(step), float(loss)) for step, loss in finetune.get("judged") or []]:
        lines.append(Line(validation, "--warm", dots=True))
        key.append((f"{finetune['validation_samples']} held-out samples", "--warm"))
    return lines, key
