"""What a run's report says to a person: the table, the choices, what there is now and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from compressor.bench.rows import format_perplexity, format_threads, from_json, to_markdown
from compressor.report.anatomy import describe_budget
from compressor.report.describe import (
    describe_head,
    describe_reconstruction,
    describe_shapes,
    describe_temperature,
    describe_validation,
)
from compressor.report.terminal_table import render_table

Report = Mapping[str, Any]

#: Figure -> its title in the table of an evaluation, and how it is shown.
_EVALUATED: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "accuracy": ("accuracy", lambda row: f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_error']:.1f} %"),
    "f1": ("F1", lambda row: f"{row['f1']:.3f}"),
    "perplexity": ("perplexity", lambda row: format_perplexity(row["perplexity"])),
}
_MEANINGS = {"accuracy": "± is one standard error", "perplexity": "a lower perplexity is better"}


def table_of(report: Report) -> Table:
    """The report's table for a terminal."""
    return render_table(from_json(report["table"]))


def markdown_of(report: Report) -> str:
    """The report's table in Markdown."""
    return to_markdown(from_json(report["table"])).rstrip()


def summary_lines(report: Report) -> list[str]:
    """What there is now, where it is and what to type next, a line each."""
    recipe = report["recipe"]
    folder = recipe["output"]
    lines = [describe_outcome(report)]
    if (evaluation := report.get("evaluation")) is not None:
        unit = "labels" if evaluation["labelled"] <= evaluation["samples"] else "tokens"
        lines.append(
            f"measured on {evaluation['data']}: {evaluation['samples']} samples, {evaluation['labelled']} {unit}"
        )
    if (budget := report.get("budget")) and budget["given"]:
        lines += describe_budget(budget)
    if report.get("length"):
        lines.append(f"GMACs are of {report['length']} tokens")
    finetune = report.get("finetune") or {}
    if finetune.get("best_step") is not None:
        lines.append(describe_validation(finetune))
    if finetune.get("search"):
        lines.append(describe_search(finetune))
    if report.get("latency"):
        lines.append(describe_timing(report["latency"]))
    if (onnx := report.get("onnx")) is not None:
        lines.append(
            f"ONNX Runtime agrees with torch to {onnx['largest_relative_difference']:.1e} of the largest value "
            f"(at most {onnx['tolerance']:.0e} is allowed)"
        )
    lines += _other_formats(report)
    lines.append(f"written to {folder} in {report['seconds']['total']:.0f} s: {_contents(report)}")
    lines.append(f"look at it: {folder}/report.html")
    lines.append(f"next: {_next(report)}")
    return lines


def describe_choices(report: Report) -> list[str]:
    """Shape, choices of the fusion and where the time went, a line each."""
    lines = []
    if target := report.get("target"):
        shapes = ", ".join(
            f"{field} {sizes['teacher']} → {sizes['student']}" for field, sizes in target["fields"].items()
        )
        depth = "" if target.get("asked_depth") is None else f"depth {target['asked_depth']:g} asked; "
        lines.append(f"{depth}width: {target['asked_width']:g} asked, {target['given_width']:.4g} given ({shapes})")
    fusion = report.get("fusion") or {}
    for key, value in (fusion.get("choices") or {}).items():
        if key != "shapes":
            lines.append(f"{key}: {_said(value)}")
        elif value:
            lines.append(f"shapes: {describe_shapes(value)}")
    if fusion.get("polished") is not None:
        lines.append(f"polish: {describe_reconstruction(fusion)}")
    if head := fusion.get("head"):
        lines.append(f"head: {describe_head(head)}")
    if finetune := report.get("finetune"):
        lines.append(
            f"finetune: {finetune['steps']} steps at learning rate {finetune['learning_rate']:g}"
            f"{describe_temperature(finetune)}, loss {finetune['loss'][-1][1]:.4f} at the end"
        )
        if finetune.get("best_step") is not None:
            lines.append(describe_validation(finetune))
        if finetune.get("search"):
            lines.append(describe_search(finetune))
    if report.get("latency"):
        lines.append(describe_timing(report["latency"]))
    if onnx := report.get("onnx"):
        lines.append(f"onnx: largest relative difference from torch {onnx['largest_relative_difference']:.1e}")
    lines += _other_formats(report)
    lines += [f"warning: {line}" for line in report.get("warnings") or []]
    lines += [f"note: {line}" for line in report.get("notes") or []]
    if seconds := report.get("seconds"):
        lines.append("seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()))
    return lines


def score_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What models were measured by, a row for each: accuracy with its standard error and F1, or perplexity."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    shown = [metric for metric in _EVALUATED if any(row[metric] is not None for row in rows)]
    unit = "samples" if all(row["samples"] >= row["labelled"] for row in rows) else "tokens"
    for title in (*(_EVALUATED[metric][0] for metric in shown), unit, "params (M)"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = ["–" if row[metric] is None else _EVALUATED[metric][1](row) for metric in shown]
        table.add_row(Text(row["name"]), *cells, str(row["labelled"]), f"{row['parameters'] / 1e6:.3f}")
    return table


def describe_data(found: Report) -> str:
    """What an evaluation was made on."""
    means = [_MEANINGS[metric] for metric in _MEANINGS if any(row[metric] is not None for row in found["rows"])]
    return "; ".join([f"measured on {found['data']}", *means])


def describe_export(found: Report) -> list[str]:
    """What an export wrote, a line each."""
    lines = []
    for name, made in found["formats"].items():
        for file, about in made["files"].items():
            lines.append(f"wrote {found['folder']}/{file} ({name}, {about['bytes'] / 1e6:.2f} MB)")
        lines.append(_parity(name, made))
    if found["report_updated"]:
        lines.append(f"noted in {found['folder']}/report.json")
    return lines


def _other_formats(report: Report) -> list[str]:
    """What the formats beside ONNX in float32 are worth, a line each."""
    return [_parity(name, made) for name, made in (report.get("formats") or {}).items() if name != "onnx"]


def _parity(name: str, made: Mapping[str, Any]) -> str:
    """How far a format is from torch, and what one that need not be exact is worth on data."""
    if made["exact"]:
        return f"{name}: largest difference from torch {made['largest_relative_difference']:.1e} of the largest value"
    data = made["evaluation"]
    where, figures = ("random inputs", made) if data is None else (f"{data['samples']} samples", data)
    parts = [f"relative error of the logits {figures['relative_error']:.1e}"]
    if figures["agreement"] is not None:
        parts.append(f"{100 * figures['agreement']:.2f} % of the answers are torch's")
    if data is not None and data["accuracy"] is not None:
        parts.append(f"accuracy {100 * data['accuracy']:.2f} % beside {100 * data['float']['accuracy']:.2f} %")
    if data is not None and data["perplexity"] is not None:
        ours, theirs = (format_perplexity(one["perplexity"]) for one in (data, data["float"]))
        parts.append(f"perplexity {ours} beside {theirs}")
    return f"{name}: {', '.join(parts)} (on {where})"


def describe_outcome(report: Report) -> str:
    """The student's size, score and speed beside its teachers', in one line."""
    rows = report["table"]
    teachers = rows[: len(report["recipe"]["teachers"])]
    student = rows[-1]
    largest = max(teachers, key=lambda row: row["parameters"])
    share = student["parameters"] / largest["parameters"]
    parts = [f"{student['parameters'] / 1e6:.3g} M parameters ({share:.0%} of a teacher's)"]
    best = "the teacher's" if len(teachers) == 1 else "the better teacher's"
    if student["accuracy"] is not None and (scored := [row["accuracy"] for row in teachers if row["accuracy"]]):
        kept = student["accuracy"] / max(scored)
        parts.append(f"{100 * student['accuracy']:.1f} % accuracy ({kept:.1%} of {best})")
    if (perplexity := student.get("perplexity")) is not None:
        times = perplexity / min(row["perplexity"] for row in teachers)
        parts.append(f"perplexity {format_perplexity(perplexity)} ({times:.3g} times {best}; lower is better)")
    for backend, name in (("ort", "ONNX Runtime"), ("torch", "torch")):
        ours, theirs = student[f"{backend}_p50_ms"], largest[f"{backend}_p50_ms"]
        if ours and theirs:
            parts.append(f"{theirs / ours:.1f} times as fast as a teacher in {name}")
            break
    return f"student ({student['name']}): {', '.join(parts)}"


def describe_timing(latency: Mapping[str, Any]) -> str:
    """How latency was measured."""
    one = next(iter(latency["models"].values()))["torch"]
    each = f" × {latency['length']} tokens" if latency.get("length") else ""
    runs = [backend["iterations"] for model in latency["models"].values() for backend in model.values() if backend]
    return (
        f"latency: p50 / p95 of batches of {latency['batch_size']}{each} with {format_threads(one['threads'])}, at "
        f"least {latency['seconds']:g} s and {min(runs)} calls each, in turns; {latency['shared']}"
    )


def describe_search(finetune: Mapping[str, Any]) -> str:
    """Which learning rates were tried, which was taken, and whether better ones may lie beyond those."""
    tried = [
        f"{trial['learning_rate']:g} ("
        + ("diverged)" if trial["validation_loss"] is None else f"loss {trial['validation_loss']:.4g})")
        for trial in finetune["search"]
    ]
    kept_out = finetune["validation_samples"]
    return (
        f"learning rate {finetune['learning_rate']:g} chosen among {', '.join(tried)}, "
        f"by {kept_out} training {'sample' if kept_out == 1 else 'samples'} kept out{_beyond(finetune)}"
    )


def _beyond(finetune: Mapping[str, Any]) -> str:
    """What else could be tried where the best rate is the highest or lowest of those tried, diverged ones included."""
    rates = [trial["learning_rate"] for trial in finetune["search"]]
    best = finetune["learning_rate"]
    if len(set(rates)) < 2 or best not in (min(rates), max(rates)):
        return ""
    which, further = ("highest", 3 * best) if best == max(rates) else ("lowest", best / 3)
    return f"; it is the {which} one: --learning-rates {best:g},{further:.1g} would tell whether to go further"


def _contents(report: Report) -> str:
    """What lies in the folder."""
    made = {"onnx": report.get("onnx") or {}, **(report.get("formats") or {})}
    written = dict.fromkeys(file for one in made.values() for file in one.get("files") or [])
    files = ["model.safetensors with its config and preprocessor", *written]
    return ", ".join([*files, "README.md (the model card), recipe.yaml, report.json"])


def _next(report: Report) -> str:
    recipe = report["recipe"]
    folder = shlex.quote(recipe["output"])
    data = recipe["data"]
    if data["source"] is None or report["evaluation"] is None:
        return f"compress inspect {folder}"
    if report["finetune"] is None:
        teachers = " ".join(f"-t {shlex.quote(name)}" for name in recipe["teachers"])
        return f"compress finetune {folder} {teachers} {_reading(data)} -o {folder}-tuned"
    return f"compress evaluate {folder} {_reading({**data, 'train_split': None})} --eval-samples all"


def _reading(data: Mapping[str, Any]) -> str:
    """The flags that read the same data in the same way."""
    flags = {"data": data["source"]} | {key: value for key, value in data.items() if key != "source"}
    said = {
        key.replace("_", "-"): ",".join(value) if isinstance(value, list | tuple) else str(value)
        for key, value in flags.items()
        if value is not None
    }
    return " ".join(f"--{key} {shlex.quote(value)}" for key, value in said.items())


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
