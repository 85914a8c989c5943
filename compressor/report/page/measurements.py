"""What was measured: the figures at the top, the table, scores against costs, the finetune."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from compressor.bench.rows import format_perplexity, from_json, table_columns
from compressor.report.describe import describe_temperature, describe_validation
from compressor.report.format_rows import DESCRIPTIONS, TITLES, format_rows
from compressor.report.page.charts import ChartPoint, Line, chart_key, line_chart, scatter_chart
from compressor.report.page.markup import Markup, el, markup_table
from compressor.report.summary import describe_search, describe_timing

Report = Mapping[str, Any]

#: Points of the finetune's smoothed line; of fewer steps than that each is shown as it is.
_SMOOTH = 20


def headline_figures(report: Report) -> Markup | None:
    """What a reader wants to know first: how small, how good, how fast."""
    rows, student = report["table"], report["table"][-1]
    teachers = rows[: len(report["recipe"]["teachers"])]
    largest = max(teachers, key=lambda row: row["parameters"])
    found = [
        (f"{student['parameters'] / largest['parameters']:.0%}", f"of a teacher’s {_millions(largest)} M parameters"),
        (f"{student['macs'] / largest['macs']:.0%}", "of its multiply–accumulates"),
    ]
    metric = metric_of(report)
    if metric == "accuracy":
        best = max(row["accuracy"] for row in teachers)
        beside = f"accuracy; the {'better ' if len(teachers) > 1 else ''}teacher has {100 * best:.1f} %"
        found.append((f"{100 * student['accuracy']:.1f} %", beside))
    elif metric == "perplexity":
        best = min(row["perplexity"] for row in teachers)
        beside = f"perplexity; the {'better ' if len(teachers) > 1 else ''}teacher has {format_perplexity(best)}"
        found.append((format_perplexity(student["perplexity"]), beside))
    for backend, name in (("ort", "ONNX Runtime"), ("torch", "torch")):
        if student[f"{backend}_p50_ms"] and largest[f"{backend}_p50_ms"]:
            times = largest[f"{backend}_p50_ms"] / student[f"{backend}_p50_ms"]
            found.append((f"{times:.1f}×", f"as fast as a teacher in {name}"))
            break
    return el("div", *(el("div", el("b", value), el("span", said)) for value, said in found), class_="figures")


def score_section(report: Report) -> list[Markup]:
    """The table, and how it came about."""
    rows = from_json(report["table"])
    cells = table_columns(rows)
    shown = [
        markup_table(list(cells), zip(*cells.values(), strict=True), marked=len(rows) - 1),
        el("p", " ".join(_how_measured(report)), class_="note"),
    ]
    return shown


def cost_section(report: Report) -> list[Markup]:
    """Score against multiply–accumulates, and against latency: in ONNX Runtime, or in torch where that is all."""
    metric = metric_of(report)
    if metric is None:
        return []
    rows = [row for row in report["table"] if row[metric] is not None]
    title = "perplexity (lower is better)" if metric == "perplexity" else "accuracy"
    shown = [_cost_chart(report, rows, metric, "macs", 1e-9, "GMACs a sample (one is two GFLOPs)", title)]
    for backend, name in (("ort", "ONNX Runtime"), ("torch", "torch")):
        timed = [row for row in rows if row[f"{backend}_p50_ms"]]
        if len(timed) == len(rows):
            batch = report["latency"]["batch_size"]
            x_title = f"milliseconds a batch of {batch}, {name}, median"
            shown.append(_cost_chart(report, timed, metric, f"{backend}_p50_ms", 1.0, x_title, title))
            break
    said = "Left and up is better." if metric == "accuracy" else "Left and down is better."
    if metric == "accuracy" and _counts_samples(report):
        said += " Bars are one standard error to both sides."
    return [el("div", *(el("figure", chart) for chart in shown), class_="charts"), el("p", said, class_="note")]


def finetune_section(report: Report) -> list[Markup]:
    """The loss of the finetune, step by step."""
    finetune = report.get("finetune")
    if not finetune or not finetune["loss"]:
        return []
    curve = [(float(step), float(loss)) for step, loss in finetune["loss"]]
    options = report["recipe"]["finetune"]
    learns = [
        *(["the distillation from the ensemble"] if options["distil_weight"] else []),
        *(["the cross-entropy with labels"] if options["label_weight"] else []),
    ]
    said = (
        f"{finetune['steps']} steps of {options['batch_size']} samples in {finetune['seconds']:.0f} s, peak learning "
        f"rate {finetune['learning_rate']:g}{describe_temperature(finetune)}; the loss is {' and '.join(learns)}, "
        f"{curve[0][1]:.4g} at the first step and {curve[-1][1]:.4g} at the last."
    )
    drawn, entries = [Line(curve, dots=True)], [("each step", "--accent")]
    if (window := math.ceil(len(curve) / _SMOOTH)) > 1:
        drawn = [Line(curve, "--calm", faint=True), Line(_smoothed(curve, window))]
        entries = [("each step", "--calm"), (f"mean of {window} steps", "--accent")]
    if judged := [(float(step), float(loss)) for step, loss in finetune.get("judged") or []]:
        drawn.append(Line(judged, "--warm", dots=True))
        entries.append((f"{finetune['validation_samples']} samples kept out", "--warm"))
    return [
        el("p", said),
        el("div", el("figure", line_chart(drawn, "step", "loss", said), chart_key(entries)), class_="charts"),
        *(
            [el("p", _sentence(describe_validation(finetune)), class_="note")]
            if finetune.get("best_step") is not None
            else []
        ),
        *([el("p", _sentence(describe_search(finetune)), class_="note")] if finetune.get("search") else []),
    ]


def formats_section(report: Report) -> list[Markup]:
    """What the formats are worth, where there are more than the ONNX file that is proven below."""
    found = report.get("formats") or {}
    if not set(found) - {"onnx"}:
        return []
    # Without the names of files, which would push the figures out of a phone's sight.
    rows = [(name, *cells) for name, _, *cells in format_rows(found)]
    return [markup_table([title for title in TITLES if title != "files"], rows), el("p", DESCRIPTIONS, class_="note")]


def metric_of(report: Report) -> str | None:
    """What the models are compared by, if they were measured."""
    for metric in ("perplexity", "accuracy"):
        if all(row.get(metric) is not None for row in report["table"]):
            return metric
    return None


def _cost_chart(
    report: Report, rows: Sequence[Report], metric: str, cost: str, unit: float, x_title: str, y_title: str
) -> Markup:
    teachers = len(report["recipe"]["teachers"])
    names = [row["name"] for row in report["table"]]
    points = []
    for row in rows:
        place = names.index(row["name"])
        student = place >= teachers and row["name"] != "ensemble"
        last = place == len(names) - 1
        points.append(
            ChartPoint(
                row["name"],
                unit * row[cost],
                row[metric],
                _error(report, row[metric]) if metric == "accuracy" else 0.0,
                "--accent" if last else "--warm" if student else "--calm",
                hollow=row["name"] == "ensemble",
            )
        )
    return scatter_chart(points, x_title, y_title, percent=metric == "accuracy")


def _error(report: Report, accuracy: float) -> float:
    """One standard error of an accuracy, where answers are independent of each other."""
    if not _counts_samples(report):
        return 0.0
    return math.sqrt(accuracy * (1 - accuracy) / report["evaluation"]["labelled"])


def _counts_samples(report: Report) -> bool:
    evaluation = report.get("evaluation") or {"labelled": 0, "samples": 0}
    return 0 < evaluation["labelled"] <= evaluation["samples"]


def _how_measured(report: Report) -> list[str]:
    lines = []
    if evaluation := report.get("evaluation"):
        unit = "labels" if evaluation["labelled"] <= evaluation["samples"] else "tokens"
        lines.append(
            f"Measured on {evaluation['data']}: {evaluation['samples']} samples, {evaluation['labelled']} {unit}."
        )
        lines.append("KL is to the ensemble’s answers, in nats.")
    if report.get("length"):
        lines.append(f"GMACs are of {report['length']} tokens.")
    if report.get("latency"):
        lines.append(_sentence(describe_timing(report["latency"])))
    return lines


def _smoothed(curve: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Means of neighbouring steps."""
    parts = [curve[start : start + window] for start in range(0, len(curve), window)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _millions(row: Report) -> str:
    return f"{row['parameters'] / 1e6:.3g}"
