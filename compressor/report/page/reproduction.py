"""How to reproduce a run: recipe, weights, versions, checks, time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from compressor.recipe import Recipe
from compressor.report.choices import teacher_names
from compressor.report.describe import Report
from compressor.report.page.elements import Bars, Element, Group, PageTable, Text

_AGAIN = (
    "The folder holds this recipe as recipe.yaml; on the same machine and versions it gives the same weights, bit for "
    "bit."
)


def recipe_section(report: Report) -> list[Element]:
    """The recipe, whole and without defaults."""
    defaults = Recipe(teachers=("any",)).model_dump(mode="json")
    return [
        _AGAIN,
        Text("compress run recipe.yaml --output again", "code"),
        "Options that differ from the defaults:",
        Text(_yaml(_changed(report["recipe"], defaults)), "code"),
        Group("details", [Text(_yaml(report["recipe"]), "code")], "all options"),
    ]


def environment_section(report: Report) -> list[Element]:
    """Weight hashes, versions, machine."""
    models = [*report["teachers"], *([given] if (given := report["student"].get("given")) else [])]
    models.append({"name": "the student", **report["student"]})
    names = teacher_names(report)
    hashes = [(names.get(model["name"], model["name"]), model["fingerprint"][:16]) for model in models]
    versions = [
        ("compressor", report["version"]),
        *((name.replace("_", " "), str(value)) for name, value in report["environment"].items() if value),
        ("seed", str(report["recipe"]["seed"])),
        ("device", report["recipe"]["device"]),
    ]
    weights: Element = [Text("Weights", "heading"), PageTable(("model", "sha256 (begins)"), hashes, words=True)]
    machine: Element = [Text("Machine and versions", "heading"), PageTable(("name", "value"), versions, words=True)]
    return [Group("columns", [weights, machine])]


def checks_section(report: Report) -> list[Element]:
    """Errors and tolerances."""
    names, certificates = teacher_names(report), (report.get("fusion") or {}).get("certificate") or {}
    rows = [
        (f"anatomy of {names.get(name, name)}: permuting every space changes its logits by", f"{error:.1e}", "1e-05")
        for name, error in certificates.items()
    ]
    onnx = report.get("onnx") or {"files": {}}
    for name, file in onnx["files"].items():
        difference = f"{file['largest_relative_difference']:.1e}"
        rows.append((f"{name}: relative difference from torch", difference, f"{onnx['tolerance']:.0e}"))
    return [PageTable(("check", "measured", "allowed"), rows, words=True)] if rows else []


def seconds_section(report: Report) -> list[Element]:
    """Time per stage, peak memory."""
    total = report["seconds"]["total"]
    stages = {stage: value for stage, value in report["seconds"].items() if stage != "total"}
    bars = [(stage, f"{value:.1f} s", value / total, False) for stage, value in stages.items()]
    return [f"{total:.0f} s in all; peak memory {report['peak_memory_bytes'] / 1e9:.2f} GB.", Bars(bars)]


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values that differ from the defaults."""
    changed: dict[str, Any] = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value = _changed(value, default) or default
        if value != default:
            changed[name] = value
    return changed


def _yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).rstrip()
