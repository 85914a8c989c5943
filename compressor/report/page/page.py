"""The page of a report."""

from __future__ import annotations

from pathlib import Path

from compressor.report.describe import Report, describe_outcome
from compressor.report.page import construction, measurements, reproduction
from compressor.report.page.markup import Markup, el, join_markup
from compressor.report.page.style import STYLE

#: The browser loads nothing from elsewhere.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_page(report: Report) -> str:
    """A report as HTML without scripts, without sections that it lacks."""
    sections = _sections(report)
    title = _title(report)
    notices = [*(report.get("warnings") or []), *(report.get("notes") or [])]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", Markup(STYLE)),
    )
    body = el(
        "body",
        el("header", el("h1", title), el("p", measurements.sentence(describe_outcome(report)))),
        el("main", measurements.headline_figures(report), *(el("p", line, class_="notice") for line in notices),
           el("nav", *(el("a", heading, href=f"#{anchor}") for anchor, heading, _ in sections)),
           *(el("section", el("h2", heading), *parts, id=anchor) for anchor, heading, parts in sections)),
    )  # fmt: skip
    return join_markup((Markup("<!doctype html>\n"), el("html", head, body, lang="en"), "\n"))


def _sections(report: Report) -> list[tuple[str, str, list[Markup]]]:
    """(anchor, heading, content)."""
    names = _teacher_names(report)
    fused = report.get("fusion") is not None
    sections: list[tuple[str, str, list[Markup]]] = [
        ("table", "Results", [*measurements.score_section(report), *measurements.cost_section(report)]),
        ("finetune", "Finetune", measurements.finetune_section(report)),
        ("formats", "Export formats", measurements.formats_section(report)),
        ("choices", "Choices and their reasons", construction.choices_section(report, names) if fused else []),
        ("couplings", "Couplings", construction.couplings_section(report, names) if fused else []),
        ("refit", "Layer-wise refit", construction.refit_section(report) if fused else []),
        ("recipe", "Reproduce", reproduction.recipe_section(report)),
        ("made-with", "Weights and environment", reproduction.environment_section(report)),
        ("proofs", "Checks", reproduction.checks_section(report)),
        ("seconds", "Time and memory", reproduction.seconds_section(report)),
    ]
    return [section for section in sections if section[2]]


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
