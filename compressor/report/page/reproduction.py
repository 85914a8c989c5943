"""How to reproduce a run: recipe, weights, versions, checks, time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from compressor.recipe import Recipe
from compressor.report.choices import teacher_names
from compressor.report.describe import Report


def changed_options(recipe: Report) -> str:
    """Options that differ from the defaults, as YAML."""
    return to_yaml(_changed(recipe, Recipe(teachers=("any",)).model_dump(mode="json")))


def to_yaml(recipe: Report) -> str:
    """A recipe as YAML."""
    return yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True).rstrip()


def weight_rows(report: Report) -> list[tuple[str, str]]:
    """Models and hashes of their weights."""
    names, given = teacher_names(report), report["student"].get("given")
    models = [*report["teachers"], *([given] if given else []), {"name": "the student", **report["student"]}]
    return [(names.get(model["name"], model["name"]), model["fingerprint"][:16]) for model in models]


def version_rows(report: Report) -> list[tuple[str, str]]:
    """Machine and versions, seed, device."""
    environment = {name.replace("_", " "): value for name, value in report["environment"].items() if value}
    own = {"seed": report["recipe"]["seed"], "device": report["recipe"]["device"]}
    return list({"compressor": report["version"], **environment, **own}.items())


def check_rows(report: Report) -> list[tuple[str, str, str]]:
    """Checks, their errors and tolerances."""
    names, certificates = teacher_names(report), (report.get("fusion") or {}).get("certificate") or {}
    rows = [
        (f"anatomy of {names.get(name, name)}: permuting every space changes its logits by", f"{error:.1e}", "1e-05")
        for name, error in certificates.items()
    ]
    onnx = report.get("onnx") or {"files": {}}
    for name, file in onnx["files"].items():
        difference = f"{file['largest_relative_difference']:.1e}"
        rows.append((f"{name}: relative difference from torch", difference, f"{onnx['tolerance']:.0e}"))
    return rows


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
