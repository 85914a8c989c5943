"""The page of a report: `templates/page.html.j2` has the list of sections, each of which is a template of its own."""

from __future__ import annotations

from pathlib import Path

from jinja2 import UndefinedError

from compressor.bench.metrics import main_metric
from compressor.report import describe
from compressor.report.choices import choices_of, teacher_names, with_names
from compressor.report.curve import describe_curve
from compressor.report.describe import Report
from compressor.report.outcome import BACKEND_NAMES, Outcome
from compressor.report.page import fusion, reproduction, results
from compressor.report.page.charts import teacher_colours
from compressor.report.tables import FORMAT_NOTES
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
            outcome=Outcome.from_report(report),
            backends=BACKEND_NAMES,
            names=teacher_names(report),
            # What the templates of sections call.
            choices_of=choices_of, describe=describe, describe_curve=describe_curve, format_notes=FORMAT_NOTES,
            main_metric=main_metric, fusion=fusion, reproduction=reproduction, results=results,
            teacher_colours=teacher_colours, with_names=with_names,
        )  # fmt: skip
    except UndefinedError as error:
        # Such as "'dict object' has no attribute 'seconds'".
        raise KeyError(str(error).rpartition("attribute ")[2].strip("'")) from None


def _title(report: Report) -> str:
    recipe = report["recipe"]
    folder = Path(recipe["output"]).name or recipe["output"]
    if recipe.get("student"):
        return f"{folder}: {Path(recipe['student']).name}, finetuned"
    teachers = " + ".join(teacher_names(report).values())
    depth = "" if recipe.get("depth") is None else f" and depth {recipe['depth']:g}"
    return f"{folder}: {teachers} at width {recipe['width']:g}{depth}"
