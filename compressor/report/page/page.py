"""The page of a report: `templates/page.html.j2` has the list of sections, each of which is a template of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import UndefinedError

from compressor.bench import rows
from compressor.bench.metrics import main_metric
from compressor.recipe import Recipe
from compressor.report import describe, tables
from compressor.report.choices import choices_of, teacher_names, with_names
from compressor.report.curve import describe_curve
from compressor.report.describe import Report
from compressor.report.outcome import BACKEND_NAMES, Outcome
from compressor.report.page import fusion, results
from compressor.report.page.charts import teacher_colours
from compressor.report.templates import render_template


def render_page(report: Report) -> str:
    """A report as HTML without scripts, without sections that it lacks.

    Raises:
        KeyError: it is not the report of a whole run.
    """
    recipe = report["recipe"]
    try:
        return render_template(
            "compressor.report.page", "page.html.j2",
            report=report,
            title=_title(report),
            outcome=Outcome.from_report(report),
            names=teacher_names(report),
            changed_options=_yaml(_changed(recipe, Recipe(teachers=("any",)).model_dump(mode="json"))),
            all_options=_yaml(recipe),
            # What the templates call.
            backends=BACKEND_NAMES, choices_of=choices_of, describe=describe, describe_curve=describe_curve,
            fusion=fusion, main_metric=main_metric, results=results, rows=rows, tables=tables,
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
