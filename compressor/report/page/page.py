"""The page of a report: sections of elements, for `templates/page.html.j2`."""

from __future__ import annotations

from pathlib import Path

from compressor.report.choices import teacher_names
from compressor.report.describe import Report
from compressor.report.page import changes, couplings, fits, reproduction, results, sources
from compressor.report.page.elements import Element
from compressor.report.templates import render_template


def render_page(report: Report) -> str:
    """A report as HTML without scripts, without sections that it lacks.

    Raises:
        KeyError: it is not the report of a whole run.
    """
    return render_template(
        "compressor.report.page", "page.html.j2",
        title=_title(report),
        verdict=results.verdict(report),
        figures=results.headline_figures(report),
        notices=[*(report.get("warnings") or []), *(report.get("notes") or [])],
        sections=[section for section in _sections(report) if section[2]],
    )  # fmt: skip


def _sections(report: Report) -> list[tuple[str, str, list[Element]]]:
    """Anchor, heading and elements of each section."""
    names = teacher_names(report)
    fused = report.get("fusion") is not None
    return [
        ("results", "Results", results.results_section(report)),
        ("curve", "Other widths", results.curve_section(report)),
        ("differences", "What changed", changes.changes_section(report)),
        ("finetune", "Finetune", results.finetune_section(report)),
        ("formats", "Export formats", results.formats_section(report)),
        ("sources", "Which teacher gave what", sources.sources_section(report, names) if fused else []),
        ("choices", "Choices and their reasons", fits.choices_section(report, names) if fused else []),
        ("couplings", "Couplings", couplings.couplings_section(report, names) if fused else []),
        ("refit", "Layer-wise refit", fits.refit_section(report) if fused else []),
        ("recipe", "Reproduce", reproduction.recipe_section(report)),
        ("environment", "Weights and environment", reproduction.environment_section(report)),
        ("checks", "Checks", reproduction.checks_section(report)),
        ("seconds", "Time and memory", reproduction.seconds_section(report)),
    ]


def _title(report: Report) -> str:
    recipe = report["recipe"]
    folder = Path(recipe["output"]).name or recipe["output"]
    if recipe.get("student"):
        return f"{folder}: {Path(recipe['student']).name}, finetuned"
    teachers = " + ".join(teacher_names(report).values())
    depth = "" if recipe.get("depth") is None else f" and depth {recipe['depth']:g}"
    return f"{folder}: {teachers} at width {recipe['width']:g}{depth}"
