"""Couplings as heat maps: an image in the page for every plan, with its figures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from compressor.report.page.markup import Markup, el
from compressor.transport.sketch import FULL, levels

#: Seen on a light page and on a dark one; what has no mass is left clear.
_INK = (47, 116, 220)
#: Spaces that are shown at once; the others open when asked for.
SHOWN = 24

Noted = Mapping[str, Any]


def spaces_in_order(couplings: Sequence[Noted], projections: Sequence[Noted], names: Mapping[str, str]) -> list[Markup]:
    """A card for every space, in the order in which they were made.

    Args:
        couplings, projections: as in a report, one after the other for every teacher.
        names: what to call the teachers.
    """
    cards = [_card(of_space, names) for of_space in (*_grouped(projections), *_grouped(couplings))]
    shown, rest = cards[:SHOWN], cards[SHOWN:]
    parts = [el("div", *shown, class_="spaces")]
    if rest:
        parts.append(el("details", el("summary", f"{len(rest)} more spaces"), el("div", *rest, class_="spaces")))
    return parts


def _grouped(noted: Sequence[Noted]) -> Iterable[list[Noted]]:
    """Entries by space; a space has one entry of every teacher."""
    found: dict[str, list[Noted]] = {}
    for one in noted:
        found.setdefault(one["space"], []).append(one)
    return found.values()


def _card(of_space: Sequence[Noted], names: Mapping[str, str]) -> Markup:
    first = of_space[0]
    solvers = sorted({one["solver"] for one in of_space if "solver" in one})
    how = ", ".join(solvers) if solvers else "no transport"
    return el(
        "figure",
        el("b", re.sub(r"([./])", "\\1\u200b", first["space"])),
        el("small", f"{how}, to {first['target']} coordinates of the student"),
        el("div", *(_plan(one, names.get(one["teacher"], one["teacher"])) for one in of_space), class_="plans"),
        class_="space",
    )  # fmt: skip


def _plan(one: Noted, teacher: str) -> Markup:
    said = f"{one['space']}: from {one['source']} coordinates of {teacher} to {one['target']}"
    return el(
        "div",
        el("span", f"{teacher} ({one['source']})"),
        el("img", src=heat_map(one["plan"]), alt=said, title=said) if "plan" in one else None,
        el("dl", *(el(tag, text) for name, value in _figures(one) for tag, text in (("dt", name), ("dd", value)))),
    )


def _figures(one: Noted) -> list[tuple[str, str]]:
    if "solver" not in one:
        return []
    found = [
        ("entropy", f"{one['entropy']:.2f}"),
        ("marginal error", "0" if one["marginal_error"] == 0 else f"{one['marginal_error']:.0e}"),
        ("cost", "–" if one["cost"] is None else f"{one['cost']:.3g}"),
    ]
    if one["transported"] < 1:
        found.append(("transported", f"{one['transported']:.0%}"))
    if one["untransported"]:
        found.append(("left behind", f"{one['untransported']}/{one['source']}"))
    if one["empty_targets"]:
        found.append(("fills", f"{one['target'] - one['empty_targets']}/{one['target']}"))
    return found


def heat_map(sketched: Mapping[str, Any]) -> str:
    """A sketched plan as a PNG in a data URL: the more mass, the less clear."""
    # Of the square root: what is a quarter of the fullest block is seen as half of it.
    clear = [round(FULL * (level / FULL) ** 0.5) for level in range(FULL + 1)]
    size = (sketched["columns"], sketched["rows"])
    alpha = Image.frombytes("L", size, levels(sketched)).point(clear)
    image = Image.new("RGB", size, _INK)
    image.putalpha(alpha)
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")
