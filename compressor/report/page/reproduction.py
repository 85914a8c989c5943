"""How to make it again: the recipe, what it was made with, and what was proven."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from compressor.recipe import Recipe
from compressor.report.page.markup import Markup, el, markup_table

Report = Mapping[str, Any]


def recipe_section(report: Report) -> list[Markup]:
    """The command and the recipe."""
    return [
        el(
            "p", "The folder holds this recipe as ", el("code", "recipe.yaml"),
            "; on the same machine and versions it gives the same weights, bit for bit.",
        ),
        el("pre", "compress run recipe.yaml --output again"),
        el("p", "What it says other than the defaults:"),
        el("pre", _yaml(_own(report["recipe"], _defaults()))),
        el("details", el("summary", "every option"), el("pre", _yaml(report["recipe"]))),
    ]  # fmt: skip


def environment_section(report: Report) -> list[Markup]:
    """Teachers by their hashes, versions, machine."""
    models = [*report["teachers"], *([given] if (given := report["student"].get("given")) else [])]
    prints = [(model["name"], el("code", model["fingerprint"][:16] + "…")) for model in models]
    prints.append(("the student", el("code", report["student"]["fingerprint"][:16] + "…")))
    versions = [("compressor", report["version"])]
    versions += [(name.replace("_", " "), str(value)) for name, value in report["environment"].items() if value]
    versions += [("seed", str(report["recipe"]["seed"])), ("device", report["recipe"]["device"])]
    return [
        el("h3", "Weights"), markup_table(("model", "sha256"), prints, words=True), el("h3", "Machine and versions"),
        markup_table(("what", "which"), versions, words=True),
    ]  # fmt: skip


def proofs_section(report: Report) -> list[Markup]:
    """What was proven by the run: the certificates, and ONNX against torch."""
    rows: list[tuple[object, ...]] = []
    for name, error in ((report.get("fusion") or {}).get("certificate") or {}).items():
        rows.append((f"anatomy of {name}: permuting every space changes its logits by", f"{error:.1e}", "1e-05"))
    if onnx := report.get("onnx"):
        rows += [
            (f"{name}: relative difference from torch", f"{file['largest_relative_difference']:.1e}",
             f"{onnx['tolerance']:.0e}")
            for name, file in onnx["files"].items()
        ]  # fmt: skip
    return [markup_table(("proof", "found", "allowed"), rows, words=True)] if rows else []


def seconds_section(report: Report) -> list[Markup]:
    """Where the time went, and the memory."""
    found = dict(report["seconds"])
    total = found.pop("total")
    bars = [
        el("div", el("span", stage), el("em", f"{value:.1f} s"), el("i", style=f"width:{100 * value / total:.1f}%"))
        for stage, value in found.items()
    ]
    said = f"{total:.0f} s in all; the process held {report['peak_memory_bytes'] / 1e9:.2f} GB at most."
    return [el("p", said), el("div", *bars, class_="bars")]


def _defaults() -> dict[str, Any]:
    return Recipe(teachers=("any",)).model_dump(mode="json")


def _own(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What is not as it would be anyway, nested as it was."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        usual = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(usual, Mapping):
            if own := _own(value, usual):
                found[name] = own
        elif value != usual:
            found[name] = value
    return found


def _yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).rstrip()
