"""What a run's report says to a person: the table, the choices, what there is now and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from compressor.bench.table import from_json, to_markdown
from compressor.report.terminal import render_table

Report = Mapping[str, Any]


def table_of(report: Report) -> Table:
    """The report's table for a terminal."""
    return render_table(from_json(report["table"]))


def markdown_of(report: Report) -> str:
    """The report's table in Markdown."""
    return to_markdown(from_json(report["table"])).rstrip()


def summary(report: Report) -> list[str]:
    """What there is now, where it is and what to type next, a line each."""
    recipe = report["recipe"]
    folder = recipe["output"]
    lines = [_outcome(report)]
    if report.get("latency"):
        lines.append(_how_timed(report["latency"]))
    if (onnx := report.get("onnx")) is not None:
        lines.append(
            f"ONNX Runtime agrees with torch to {onnx['largest_relative_difference']:.1e} of the largest logit "
            f"(at most {onnx['tolerance']:.0e} is allowed)"
        )
    lines.append(f"written to {folder} in {report['seconds']['total']:.0f} s; next: {_next(report)}")
    return lines


def choices(report: Report) -> list[str]:
    """Shape, choices of the fusion and where the time went, a line each."""
    lines = []
    if target := report.get("target"):
        shapes = ", ".join(
            f"{field} {sizes['teacher']} → {sizes['student']}" for field, sizes in target["fields"].items()
        )
        lines.append(f"width: {target['asked_width']:g} asked, {target['given_width']:.4g} given ({shapes})")
    for key, value in ((report.get("fusion") or {}).get("choices") or {}).items():
        lines.append(f"{key}: {_said(value)}")
    if finetune := report.get("finetune"):
        lines.append(f"finetune: {finetune['steps']} steps, loss {finetune['loss'][-1][1]:.4f} at the end")
    if report.get("latency"):
        lines.append(_how_timed(report["latency"]))
    if onnx := report.get("onnx"):
        lines.append(f"onnx: largest relative difference from torch {onnx['largest_relative_difference']:.1e}")
    if seconds := report.get("seconds"):
        lines.append("seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()))
    return lines


def timed(report: Report) -> list[str]:
    """How a bench was measured."""
    found = report["environment"]
    return [
        _how_timed(report["latency"]),
        f"on {found['cpu']}, torch {found['torch']}, ONNX Runtime {found['onnxruntime']}",
    ]


def accuracy_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Accuracy with its standard error, a row for each model."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for title in ("accuracy", "samples", "params (M)"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        accuracy = "–"
        if row["accuracy"] is not None:
            accuracy = f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_error']:.1f} %"
        table.add_row(Text(row["name"]), accuracy, str(row["labelled"]), f"{row['parameters'] / 1e6:.3f}")
    return table


def exported(found: Report) -> list[str]:
    """What an export wrote."""
    lines = [
        f"wrote {found['folder']}/{found['file']} ({found['bytes'] / 1e6:.1f} MB, opset {found['opset']})",
        f"largest difference from torch {found['largest_difference']:.1e}, "
        f"{found['largest_relative_difference']:.1e} of the largest logit "
        f"(at most {found['tolerance']:.0e} is allowed), over batches of {', '.join(map(str, found['batch_sizes']))}",
    ]
    if found["report_updated"]:
        lines.append(f"noted in {found['folder']}/report.json")
    return lines


def _outcome(report: Report) -> str:
    rows = report["table"]
    teachers = rows[: len(report["recipe"]["teachers"])]
    student = rows[-1]
    largest = max(teachers, key=lambda row: row["parameters"])
    share = student["parameters"] / largest["parameters"]
    parts = [f"{student['parameters'] / 1e6:.3g} M parameters ({share:.0%} of a teacher's)"]
    scored = [row["accuracy"] for row in teachers if row["accuracy"]]
    if student["accuracy"] is not None and scored:
        kept = student["accuracy"] / max(scored)
        parts.append(f"{100 * student['accuracy']:.1f} % accuracy ({kept:.1%} of the better teacher's)")
    for backend, name in (("ort", "ONNX Runtime"), ("torch", "torch")):
        ours, theirs = student[f"{backend}_p50_ms"], largest[f"{backend}_p50_ms"]
        if ours and theirs:
            parts.append(f"{theirs / ours:.1f} times as fast as a teacher in {name}")
            break
    return f"student ({student['name']}): {', '.join(parts)}"


def _how_timed(latency: Mapping[str, Any]) -> str:
    one = next(iter(latency["models"].values()))["torch"]
    runs = [backend["iterations"] for model in latency["models"].values() for backend in model.values() if backend]
    return (
        f"latency: p50 / p95 of batches of {latency['batch_size']} with {one['threads']} threads, at least "
        f"{latency['seconds']:g} s and {min(runs)} calls each, in turns; {latency['shared']}"
    )


def _next(report: Report) -> str:
    recipe = report["recipe"]
    folder = shlex.quote(recipe["output"])
    source = recipe["data"]["source"]
    if source is None:
        return f"compress inspect {folder}"
    if report["finetune"] is None:
        teachers = " ".join(f"-t {shlex.quote(name)}" for name in recipe["teachers"])
        return f"compress finetune {folder} {teachers} --data {shlex.quote(source)} -o {folder}-tuned"
    return f"compress evaluate {folder} --data {shlex.quote(source)} --eval-samples all"


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(item)}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
