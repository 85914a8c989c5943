"""The page of a report: `templates/page.html.j2`, which shows each section by the template of its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jinja2 import UndefinedError

from compressor.report.choices import teacher_names
from compressor.report.describe import Report
from compressor.report.outcome import BACKEND_NAMES, Outcome
from compressor.report.page import changes, couplings, fits, reproduction, results
from compressor.report.templates import render_template


def render_page(report: Report) -> str:
    """A report as HTML without scripts, without sections that it lacks.

    Raises:
        KeyError: it is not the report of a whole run.
    """
    try:
        return render_template(
            "compressor.report.page", "page.html.j2",
            report=report,
            title=_title(report),
            verdict=results.verdict(report),
            outcome=Outcome.from_report(report),
            backends=BACKEND_NAMES,
            names=teacher_names(report),
            sections=[section for section in _sections(report) if section[2]],
        )  # fmt: skip
    except UndefinedError as error:
        raise KeyError(str(error)) from error


def _sections(report: Report) -> Iterator[tuple[str, str, Report]]:
    """Anchor, heading, and what the section shows in addition to the report; nothing if the report lacks it."""
    yield "results", "Results", results.results_section(report)
    yield "curve", "Other widths", results.curve_section(report)
    yield "differences", "What changed", changes.changes_section(report)
    yield "finetune", "Finetune", results.finetune_section(report)
    yield "formats", "Export formats", results.formats_section(report)
    if report.get("fusion") is not None:
        yield "sources", "Which teacher gave what", couplings.sources_section(report)
        yield "choices", "Choices and their reasons", fits.choices_section(report)
        yield "couplings", "Couplings", couplings.couplings_section(report)
        yield "refit", "Layer-wise refit", fits.refit_section(report)
    yield "recipe", "Reproduce", reproduction.recipe_section(report)
    yield "environment", "Weights and environment", reproduction.environment_section(report)
    yield "checks", "Checks", reproduction.checks_section(report)
    yield "seconds", "Time and memory", report["seconds"]


def _title(report: Report) -> str:
    recipe = report["recipe"]
    folder = Path(recipe["output"]).name or recipe["output"]
    if recipe.get("student"):
        return f"{folder}: {Path(recipe['student']).name}, finetuned"
    teachers = " + ".join(teacher_names(report).values())
    depth = "" if recipe.get("depth") is None else f" and depth {recipe['depth']:g}"
    return f"{folder}: {teachers} at width {recipe['width']:g}{depth}"
