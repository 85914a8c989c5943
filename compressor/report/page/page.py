"""The whole page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.report.page import construction, measurements, reproduction
from compressor.report.page.markup import Markup, el, join_markup
from compressor.report.page.style import STYLE
from compressor.report.summary import describe_outcome

Report = Mapping[str, Any]

#: Nothing but what is in the file: a browser would refuse the rest.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_page(report: Report) -> str:
    """A report as one HTML file: no scripts, and nothing that is loaded from elsewhere.

    Args:
        report: as in report.json; what older ones lack is left out.
    """
    names = _names(report)
    fused = report.get("fusion") is not None
    sections: list[tuple[str, str, list[Markup]]] = [
        ("table", "What was measured", [*measurements.score_section(report), *measurements.cost_section(report)]),
        ("finetune", "Finetune", measurements.finetune_section(report)),
        ("formats", "Formats", measurements.formats_section(report)),
        ("choices", "What was chosen, and why", construction.choices_section(report, names) if fused else []),
        ("couplings", "Couplings", construction.couplings_section(report, names) if fused else []),
        ("refit", "Refit, layer by layer", construction.refit_section(report) if fused else []),
        ("recipe", "Make it again", reproduction.recipe_section(report)),
        ("made-with", "Made with", reproduction.environment_section(report)),
        ("proofs", "Proofs", reproduction.proofs_section(report)),
        ("seconds", "Time and memory", reproduction.seconds_section(report)),
    ]
    sections = [section for section in sections if section[2]]
    title = _title(report)
    told = [*(report.get("warnings") or []), *(report.get("notes") or [])]
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
        el("header", el("h1", title), el("p", _made_of(report))),
        el("main", measurements.headline_figures(report), *(el("p", line, class_="told") for line in told),
           el("nav", *(el("a", heading, href=f"#{anchor}") for anchor, heading, _ in sections)),
           *(el("section", el("h2", heading), *parts, id=anchor) for anchor, heading, parts in sections)),
    )  # fmt: skip
    return join_markup((Markup("<!doctype html>\n"), el("html", head, body, lang="en"), "\n"))


def _names(report: Report) -> dict[str, str]:
    """What the table calls each teacher."""
    teachers = report["recipe"]["teachers"]
    return {name: row["name"] for name, row in zip(teachers, report["table"], strict=False)}


def _title(report: Report) -> str:
    recipe = report["recipe"]
    folder = Path(recipe["output"]).name or recipe["output"]
    if recipe.get("student"):
        return f"{folder}: {Path(recipe['student']).name}, finetuned"
    teachers = " + ".join(_names(report).values())
    depth = "" if recipe.get("depth") is None else f" and depth {recipe['depth']:g}"
    return f"{folder}: {teachers} at width {recipe['width']:g}{depth}"


def _made_of(report: Report) -> str:
    return f"{describe_outcome(report)[:1].upper()}{describe_outcome(report)[1:]}."
