"""How to reproduce a run: recipe, weights, versions, checks, time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from compressor.recipe import Recipe
from compressor.report.choices import teacher_names
from compressor.report.describe import Report


def recipe_section(report: Report) -> Report:
    """The recipe, whole and without defaults."""
    defaults = Recipe(teachers=("any",)).model_dump(mode="json")
    return {"changed": _yaml(_changed(report["recipe"], defaults)), "all": _yaml(report["recipe"])}


def environment_section(report: Report) -> Report:
    """Weight hashes, versions, machine."""
    names, given = teacher_names(report), report["student"].get("given")
    models = [*report["teachers"], *([given] if given else []), {"name": "the student", **report["student"]}]
    return {
        "weights": [(names.get(model["name"], model["name"]), model["fingerprint"][:16]) for model in models],
        "versions": [
            ("compressor", report["version"]),
            *((name.replace("_", " "), value) for name, value in report["environment"].items() if value),
            ("seed", report["recipe"]["seed"]),
            ("device", report["recipe"]["device"]),
        ],
    }


def checks_section(report: Report) -> Report:
    """Errors and tolerances; nothing if nothing was checked."""
    names, certificates = teacher_names(report), (report.get("fusion") or {}).get("certificate") or {}
    rows = [
        (f"anatomy of {names.get(name, name)}: permuting every space changes its logits by", f"{error:.1e}", "1e-05")
        for name, error in certificates.items()
    ]
    onnx = report.get("onnx") or {"files": {}}
    for name, file in onnx["files"].items():
        difference = f"{file['largest_relative_difference']:.1e}"
        rows.append((f"{name}: relative difference from torch", difference, f"{onnx['tolerance']:.0e}"))
    return {"rows": rows} if rows else {}


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
