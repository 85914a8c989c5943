"""How to reproduce a run: recipe, weights, versions, checks, time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from compressor.recipe import Recipe
from compressor.report.describe import Report
from compressor.report.page.table import PageTable


def recipe_view(report: Report) -> dict[str, str]:
    """The recipe, whole and without defaults."""
    defaults = Recipe(teachers=("any",)).model_dump(mode="json")
    return {"changed": _yaml(_changed(report["recipe"], defaults)), "whole": _yaml(report["recipe"])}


def environment_view(report: Report) -> dict[str, list[PageTable]]:
    """Weight hashes, versions, machine."""
    models = [*report["teachers"], *([given] if (given := report["student"].get("given")) else [])]
    hashes = [(model["name"], model["fingerprint"][:16] + "…") for model in models]
    hashes.append(("the student", report["student"]["fingerprint"][:16] + "…"))
    versions = [("compressor", report["version"])]
    versions += [(name.replace("_", " "), str(value)) for name, value in report["environment"].items() if value]
    versions += [("seed", str(report["recipe"]["seed"])), ("device", report["recipe"]["device"])]
    return {
        "tables": [
            PageTable(("model", "sha256"), hashes, "Weights", words=True),
            PageTable(("name", "value"), versions, "Machine and versions", words=True),
        ]
    }


def checks_view(report: Report) -> dict[str, PageTable] | None:
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
    return {"table": PageTable(("check", "measured", "allowed"), rows, words=True)} if rows else None


def seconds_view(report: Report) -> dict[str, Any]:
    """Time per stage, peak memory."""
    stages = dict(report["seconds"])
    total = stages.pop("total")
    bars = [
        {"name": stage, "text": f"{value:.1f} s", "share": value / total, "marked": False}
        for stage, value in stages.items()
    ]
    return {"text": f"{total:.0f} s in all; peak memory {report['peak_memory_bytes'] / 1e9:.2f} GB.", "bars": bars}


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
