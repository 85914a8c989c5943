"""Sections on reproducing a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from compressor.recipe import Recipe
from compressor.report.describe import Report
from compressor.report.page.markup import Markup, el, markup_table


def recipe_section(report: Report) -> list[Markup]:
    """The command and the recipe."""
    return [
        el(
            "p", "The folder holds this recipe as ", el("code", "recipe.yaml"),
            "; on the same machine and versions it gives the same weights, bit for bit.",
        ),
        el("pre", "compress run recipe.yaml --output again"),
        el("p", "Options that differ from the defaults:"),
        el("pre", _yaml(_changed(report["recipe"], _defaults()))),
        el("details", el("summary", "all options"), el("pre", _yaml(report["recipe"]))),
    ]  # fmt: skip


def environment_section(report: Report) -> list[Markup]:
    """Weight hashes, versions, machine."""
    models = [*report["teachers"], *([given] if (given := report["student"].get("given")) else [])]
    hashes = [(model["name"], el("code", model["fingerprint"][:16] + "…")) for model in models]
    hashes.append(("the student", el("code", report["student"]["fingerprint"][:16] + "…")))
    versions = [("compressor", report["version"])]
    versions += [(name.replace("_", " "), str(value)) for name, value in report["environment"].items() if value]
    versions += [("seed", str(report["recipe"]["seed"])), ("device", report["recipe"]["device"])]
    return [
        el("h3", "Weights"), markup_table(("model", "sha256"), hashes, words=True), el("h3", "Machine and versions"),
        markup_table(("name", "value"), versions, words=True),
    ]  # fmt: skip


def checks_section(report: Report) -> list[Markup]:
    """Errors and tolerances."""
    rows: list[tuple[object, ...]] = []
    for name, error in ((report.get("fusion") or {}).get("certificate") or {}).items():
        rows.append((f"anatomy of {name}: permuting every space changes its logits by", f"{error:.1e}", "1e-05"))
    if onnx := report.get("onnx"):
        rows += [
            (f"{name}: relative difference from torch", f"{file['largest_relative_difference']:.1e}",
             f"{onnx['tolerance']:.0e}")
            for name, file in onnx["files"].items()
        ]  # fmt: skip
    return [markup_table(("check", "measured", "allowed"), rows, words=True)] if rows else []


def seconds_section(report: Report) -> list[Markup]:
    """Time per stage, peak memory."""
    stages = dict(report["seconds"])
    total = stages.pop("total")
    bars = [
        el("div", el("span", stage), el("em", f"{value:.1f} s"), el("i", style=f"width:{100 * value / total:.1f}%"))
        for stage, value in stages.items()
    ]
    text = f"{total:.0f} s in all; peak memory {report['peak_memory_bytes'] / 1e9:.2f} GB."
    return [el("p", text), el("div", *bars, class_="bars")]


def _defaults() -> dict[str, Any]:
    return Recipe(teachers=("any",)).model_dump(mode="json")


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values that differ from the defaults."""
    changed: dict[str, Any] = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            if inner := _changed(value, default):
                changed[name] = inner
        elif value != default:
            changed[name] = value
    return changed


def _yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).rstrip()
