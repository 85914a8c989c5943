"""Terminal summary of a report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from compressor.bench.rows import from_json, to_markdown
from compressor.recipe import DataOptions
from compressor.report.choices import choices_of, tried_shapes
from compressor.report.describe import (
    Report,
    describe_budget,
    describe_evaluation,
    describe_finetune,
    describe_legend,
    describe_macs,
    describe_temperature,
    describe_timing,
)
from compressor.report.describe_formats import describe_parity
from compressor.report.outcome import describe_outcome
from compressor.report.tables import render_table


def table_of(report: Report) -> RenderableType:
    """The table for a terminal; of a run, with its result marked."""
    return render_table(from_json(report["table"]), result="recipe" in report)


def markdown_of(report: Report) -> str:
    """The table in Markdown."""
    rows = from_json(report["table"])
    legend = describe_legend(rows, "recipe" in report, tails=True)
    return f"{to_markdown(rows, 'recipe' in report)}\n{legend}".rstrip()


def summary_lines(report: Report) -> list[str]:
    """Outcome, measurements, files, next command."""
    folder = report["recipe"]["output"]
    lines = [describe_outcome(report), *describe_evaluation(report)]
    if (budget := report.get("budget")) and budget["given"]:
        lines += describe_budget(budget)
    lines += [*describe_macs(report), *describe_finetune(report.get("finetune") or {})]
    if report.get("latency"):
        lines.append(describe_timing(report["latency"]))
    if (onnx := report.get("onnx")) is not None:
        lines.append(
            f"ONNX Runtime agrees with torch to {onnx['largest_relative_difference']:.1e} of the largest value "
            f"(at most {onnx['tolerance']:.0e} is allowed)"
        )
    return [
        *lines,
        *_other_formats(report),
        f"written to {folder} in {report['seconds']['total']:.0f} s: {_contents(report)}",
        f"page: {folder}/report.html",
        f"next: {_next_command(report)}",
    ]


def describe_choices(report: Report) -> list[str]:
    """Shape, choices, finetune, time per stage."""
    lines = list(map(str, [*choices_of(report), *tried_shapes(report)]))
    if finetune := report.get("finetune"):
        lines.append(
            f"finetune: {finetune['steps']} steps at learning rate {finetune['learning_rate']:g}"
            f"{describe_temperature(finetune)}, loss {finetune['loss'][-1][1]:.4f} at the end"
        )
        lines += describe_finetune(finetune)
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


def _other_formats(report: Report) -> list[str]:
    formats = report.get("formats") or {}
    return [describe_parity(name, exported) for name, exported in formats.items() if name != "onnx"]


def _contents(report: Report) -> str:
    """The files of the folder."""
    exports = [report.get("onnx") or {}, *(report.get("formats") or {}).values()]
    exported = dict.fromkeys(file for export in exports for file in export.get("files") or [])
    files = ["model.safetensors with its config and preprocessor", *exported]
    return ", ".join([*files, "README.md (the model card), recipe.yaml, report.json"])


def _next_command(report: Report) -> str:
    recipe = report["recipe"]
    folder = shlex.quote(recipe["output"])
    if recipe.get("trust_remote_code"):
        folder += " --trust-remote-code"
    data = recipe["data"]
    if data["source"] is None or report["evaluation"] is None:
        return f"compress inspect {folder}"
    if report["finetune"] is None:
        teachers = " ".join(f"-t {shlex.quote(name)}" for name in recipe["teachers"])
        classes = recipe["fusion"]["classes"]
        unlike = "" if classes == "same" else f" --classes {classes}"
        tuned = shlex.quote(f"{recipe['output']}-tuned")
        return f"compress finetune {folder} {teachers} {_data_flags(data)}{unlike} -o {tuned}"
    return f"compress evaluate {folder} {_data_flags({**data, 'train_split': None})} --eval-samples all"


def _data_flags(data: Mapping[str, Any]) -> str:
    """Flags that read the same data, without those that say what holds anyway."""
    usual = DataOptions().model_dump(mode="json")
    own = {key: value for key, value in data.items() if key != "source" and value != usual.get(key)}
    flags = {"data": data["source"]} | own
    texts = {
        key.replace("_", "-"): ",".join(value) if isinstance(value, list | tuple) else str(value)
        for key, value in flags.items()
        if value is not None
    }
    return " ".join(f"--{key} {shlex.quote(value)}" for key, value in texts.items())
