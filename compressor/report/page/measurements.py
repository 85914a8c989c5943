"""Sections on measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compressor.bench.rows import format_perplexity, from_json, table_columns
from compressor.report.describe import (
    Report,
    describe_evaluation,
    describe_finetune,
    describe_macs,
    describe_temperature,
    describe_timing,
)
from compressor.report.page.charts import ChartPoint, Line, chart_key, line_chart, scatter_chart
from compressor.report.page.markup import Markup, el, markup_table
from compressor.report.tables import FORMAT_NOTES, FORMAT_TITLES, format_rows

#: Points of the finetune's smoothed line; with fewer steps every step is shown.
_SMOOTHED_POINTS = 20


def headline_figures(report: Report) -> Markup | None:
    """Size, score and speed."""
    rows, student = report["table"], report["table"][-1]
    teachers = rows[: len(report["recipe"]["teachers"])]
    largest = max(teachers, key=lambda row: row["parameters"])
    figures = [
        (
            f"{student['parameters'] / largest['parameters']:.0%}",
            f"of a teacher’s {largest['parameters'] / 1e6:.3g} M parameters",
        ),
        (f"{student['macs'] / largest['macs']:.0%}", "of its multiply–accumulates"),
    ]
    metric = metric_of(report)
    teacher = "the better teacher" if len(teachers) > 1 else "the teacher"
    if metric == "accuracy":
        best = max(row["accuracy"] for row in teachers)
        figures.append((f"{100 * student['accuracy']:.1f} %", f"accuracy; {teacher} has {100 * best:.1f} %"))
    elif metric == "perplexity":
        best = format_perplexity(min(row["perplexity"] for row in teachers))
        figures.append((format_perplexity(student["perplexity"]), f"perplexity; {teacher} has {best}"))
    for backend, name in (("ort", "ONNX Runtime"), ("torch", "torch")):
        if student[f"{backend}_p50_ms"] and largest[f"{backend}_p50_ms"]:
            ratio = largest[f"{backend}_p50_ms"] / student[f"{backend}_p50_ms"]
            figures.append((f"{ratio:.1f}×", f"as fast as a teacher in {name}"))
            break
    return el("div", *(el("div", el("b", value), el("span", label)) for value, label in figures), class_="figures")


def score_section(report: Report) -> list[Markup]:
    """The table, and its conditions."""
    rows = from_json(report["table"])
    cells = table_columns(rows)
    return [
        markup_table(list(cells), zip(*cells.values(), strict=True), marked=len(rows) - 1),
        el("p", " ".join(_measurement_notes(report)), class_="note"),
    ]


def cost_section(report: Report) -> list[Markup]:
    """Scores over multiply–accumulates and latency."""
    metric = metric_of(report)
    if metric is None:
        return []
    rows = [row for row in report["table"] if row[metric] is not None]
    title = "perplexity (lower is better)" if metric == "perplexity" else "accuracy"
    charts = [_cost_chart(report, rows, metric, "macs", 1e-9, "GMACs per sample (one is two GFLOPs)", title)]
    for backend, name in (("ort", "ONNX Runtime"), ("torch", "torch")):
        timed = [row for row in rows if row[f"{backend}_p50_ms"]]
        if len(timed) == len(rows):
            batch = report["latency"]["batch_size"]
            x_title = f"milliseconds per batch of {batch}, {name}, median"
            charts.append(_cost_chart(report, timed, metric, f"{backend}_p50_ms", 1.0, x_title, title))
            break
    note = "Left and up is better." if metric == "accuracy" else "Left and down is better."
    if metric == "accuracy" and _counts_samples(report):
        note += " Bars are one standard error to both sides."
    return [el("div", *(el("figure", chart) for chart in charts), class_="charts"), el("p", note, class_="note")]


def finetune_section(report: Report) -> list[Markup]:
    """The finetune's settings and loss."""
    finetune = report.get("finetune")
    if not finetune or not finetune["loss"]:
        return []
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
    lines, entries = _loss_lines(finetune, curve)
    return [
        el("p", text),
        el("div", el("figure", line_chart(lines, "step", "loss", text), chart_key(entries)), class_="charts"),
        *(el("p", sentence(line), class_="note") for line in describe_finetune(finetune)),
    ]


def formats_section(report: Report) -> list[Markup]:
    """Export formats, unless only float32 ONNX."""
    formats = report.get("formats") or {}
    if not set(formats) - {"onnx"}:
        return []
    # File names would push the numbers off a phone's screen.
    rows = [(name, *cells) for name, _, *cells in format_rows(formats)]
    titles = [title for title in FORMAT_TITLES if title != "files"]
    return [markup_table(titles, rows), el("p", FORMAT_NOTES, class_="note")]


def metric_of(report: Report) -> str | None:
    """The metric of all models, if any."""
    for metric in ("perplexity", "accuracy"):
        if all(row.get(metric) is not None for row in report["table"]):
            return metric
    return None


def sentence(text: str) -> str:
    """A text as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def _cost_chart(
    report: Report, rows: Sequence[Report], metric: str, cost: str, unit: float, x_title: str, y_title: str
) -> Markup:
    teachers = len(report["recipe"]["teachers"])
    names = [row["name"] for row in report["table"]]
    points = []
    for row in rows:
        index = names.index(row["name"])
        is_student = index >= teachers and row["name"] != "ensemble"
        is_last = index == len(names) - 1
        points.append(
            ChartPoint(
                row["name"],
                unit * row[cost],
                row[metric],
                _standard_error(report, row[metric]) if metric == "accuracy" else 0.0,
                "--accent" if is_last else "--warm" if is_student else "--calm",
                hollow=row["name"] == "ensemble",
            )
        )
    return scatter_chart(points, x_title, y_title, percent=metric == "accuracy")


def _standard_error(report: Report, accuracy: float) -> float:
    """Standard error over samples; 0 over dependent tokens."""
    if not _counts_samples(report):
        return 0.0
    return math.sqrt(accuracy * (1 - accuracy) / report["evaluation"]["labelled"])


def _counts_samples(report: Report) -> bool:
    evaluation = report.get("evaluation") or {"labelled": 0, "samples": 0}
    return 0 < evaluation["labelled"] <= evaluation["samples"]


def _measurement_notes(report: Report) -> list[str]:
    notes = [*describe_evaluation(report), *describe_macs(report)]
    if report.get("evaluation"):
        notes.insert(1, "KL is to the ensemble’s predictions, in nats")
    if report.get("latency"):
        notes.append(describe_timing(report["latency"]))
    return [sentence(note) for note in notes]


def _loss_lines(finetune: Report, curve: Sequence[tuple[float, float]]) -> tuple[list[Line], list[tuple[str, str]]]:
    """Lines of the loss, and their legend."""
    lines, entries = [Line(curve, dots=True)], [("each step", "--accent")]
    if (window := math.ceil(len(curve) / _SMOOTHED_POINTS)) > 1:
        lines = [Line(curve, "--calm", faint=True), Line(_smoothed(curve, window))]
        entries = [("each step", "--calm"), (f"mean of {window} steps", "--accent")]
    if validation := [(float(step), float(loss)) for step, loss in finetune.get("judged") or []]:
        lines.append(Line(validation, "--warm", dots=True))
        entries.append((f"{finetune['validation_samples']} held-out samples", "--warm"))
    return lines, entries


def _smoothed(curve: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Means of `window` steps."""
    parts = [curve[start : start + window] for start in range(0, len(curve), window)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
