"""The page of a report: views of its sections, for `templates/page.html.j2`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressor.report.describe import Report
from compressor.report.page import changes, choices, couplings, measurements, reproduction, sources
from compressor.report.templates import render_template


def render_page(report: Report) -> str:
    """A report as HTML without scripts, without sections that it lacks.

    Raises:
        KeyError: it is not the report of a whole run.
    """
    return render_template(
        "compressor.report.page", "page.html.j2",
        title=_title(report),
        verdict=measurements.verdict(report),
        figures=measurements.headline_figures(report),
        notices=[*(report.get("warnings") or []), *(report.get("notes") or [])],
        sections=_sections(report),
    )  # fmt: skip


def _sections(report: Report) -> list[dict[str, Any]]:
    """Anchor, heading and view of each section; the anchor names its macro in `sections.html.j2`."""
    names = _teacher_names(report)
    fused = report.get("fusion") is not None
    sections: list[tuple[str, str, Any]] = [
        ("results", "Results", measurements.results_view(report)),
        ("curve", "Other widths", measurements.curve_view(report)),
        ("differences", "What changed", changes.differences_view(report)),
        ("finetune", "Finetune", measurements.finetune_view(report)),
        ("formats", "Export formats", measurements.formats_view(report)),
        ("sources", "Which teacher gave what", sources.sources_view(report, names) if fused else None),
        ("choices", "Choices and their reasons", choices.choices_view(report, names) if fused else None),
        ("couplings", "Couplings", couplings.couplings_view(report, names) if fused else None),
        ("refit", "Layer-wise refit", choices.refit_view(report) if fused else None),
        ("recipe", "Reproduce", reproduction.recipe_view(report)),
        ("environment", "Weights and environment", reproduction.environment_view(report)),
        ("checks", "Checks", reproduction.checks_view(report)),
        ("seconds", "Time and memory", reproduction.seconds_view(report)),
    ]
    return [{"anchor": anchor, "heading": heading, "view": view} for anchor, heading, view in sections if view]


def _teacher_names(report: Report) -> dict[str, str]:
    """{teacher: its name in the table}."""
    teachers = report["recipe"]["teachers"]
    return {name: row["name"] for name, row in zip(teachers, report["table"], strict=False)}


def _title(report: Report) -> str:
    recipe = report["recipe"]
    folder = Path(recipe["output"]).name or recipe["output"]
    if recipe.get("student"):
        return f"{folder}: {Path(recipe['student']).name}, finetuned"
    teachers = " + ".join(_teacher_names(report).values())
    depth = "" if recipe.get("depth") is None else f" and depth {recipe['depth']:g}"
    return f"{folder}: {teachers} at width {recipe['width']:g}{depth}"
