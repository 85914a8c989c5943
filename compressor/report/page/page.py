"""The page of a report: sections of elements, for `templates/page.html.j2`."""

from __future__ import annotations

from pathlib import Path

from compressor.report.choices import teacher_names
from compressor.report.describe import Report
from compressor.report.page.changes import changes_section
from compressor.report.page.couplings import couplings_section
from compressor.report.page.elements import Element
from compressor.report.page.fits import choices_section, refit_section
from compressor.report.page.reproduction import checks_section, environment_section, recipe_section, seconds_section
from compressor.report.page.results import (
    curve_section,
    finetune_section,
    formats_section,
    headline_figures,
    results_section,
    verdict,
)
from compressor.report.page.sources import sources_section
from compressor.report.templates import render_template


def render_page(report: Report) -> str:
    """A report as HTML without scripts, without sections that it lacks.

    Raises:
        KeyError: it is not the report of a whole run.
    """
    return render_template(
        "compressor.report.page", "page.html.j2",
        title=_title(report),
        verdict=verdict(report),
        figures=headline_figures(report),
        notices=[*(report.get("warnings") or []), *(report.get("notes") or [])],
        sections=[section for section in _sections(report) if section[2]],
    )  # fmt: skip


def _sections(report: Report) -> list[tuple[str, str, list[Element]]]:
    """Anchor, heading and elements of each section."""
    names = teacher_names(report)
    fused = report.get("fusion") is not None
    return [
        ("results", "Results", results_section(report)),
        ("curve", "Other widths", curve_section(report)),
        ("differences", "What changed", changes_section(report)),
        ("finetune", "Finetune", finetune_section(report)),
        ("formats", "Export formats", formats_section(report)),
        ("sources", "Which teacher gave what", sources_section(report, names) if fused else []),
        ("choices", "Choices and their reasons", choices_section(report, names) if fused else []),
        ("couplings", "Couplings", couplings_section(report, names) if fused else []),
        ("refit", "Layer-wise refit", refit_section(report) if fused else []),
        ("recipe", "Reproduce", recipe_section(report)),
        ("environment", "Weights and environment", environment_section(report)),
        ("checks", "Checks", checks_section(report)),
        ("seconds", "Time and memory", seconds_section(report)),
    ]


def _title(report: Report) -> str:
    recipe = report["recipe"]
    folder = Path(recipe["output"]).name or recipe["output"]
    if recipe.get("student"):
        return f"{folder}: {Path(recipe['student']).name}, finetuned"
    teachers = " + ".join(teacher_names(report).values())
    depth = "" if recipe.get("depth") is None else f" and depth {recipe['depth']:g}"
    return f"{folder}: {teachers} at width {recipe['width']:g}{depth}"
