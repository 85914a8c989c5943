"""Heat maps of couplings."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

from compressor.report.describe import Report
from compressor.report.page.markup import Markup, el
from compressor.transport.sketch import FULL, levels

#: Colour of mass, visible on light and dark pages; cells without mass are transparent.
_INK = (47, 116, 220)
#: Number of spaces shown at once; the others are in a closed `details` element.
_MAX_OPEN_SPACES = 24


def spaces_in_order(
    couplings: Sequence[Report], projections: Sequence[Report], names: Mapping[str, str]
) -> list[Markup]:
    """A card per space."""
    cards = [_card(entries, names) for entries in (*_by_space(projections), *_by_space(couplings))]
    shown, rest = cards[:_MAX_OPEN_SPACES], cards[_MAX_OPEN_SPACES:]
    parts = [el("div", *shown, class_="spaces")]
    if rest:
        parts.append(el("details", el("summary", f"{len(rest)} more spaces"), el("div", *rest, class_="spaces")))
    return parts


def _by_space(entries: Sequence[Report]) -> Iterable[list[Report]]:
    """Entries grouped by space."""
    groups: dict[str, list[Report]] = {}
    for entry in entries:
        groups.setdefault(entry["space"], []).append(entry)
    return groups.values()


def _card(entries: Sequence[Report], names: Mapping[str, str]) -> Markup:
    first = entries[0]
    solvers = ", ".join(sorted({entry["solver"] for entry in entries if "solver" in entry})) or "no transport"
    return el(
        "figure",
        el("b", re.sub(r"([./])", "\\1\u200b", first["space"])),
        el("small", f"{solvers}, to {first['target']} coordinates of the student"),
        el("div", *(_plan(entry, names.get(entry["teacher"], entry["teacher"])) for entry in entries), class_="plans"),
        class_="space",
    )


def _plan(entry: Report, teacher: str) -> Markup:
    text = f"{entry['space']}: from {entry['source']} coordinates of {teacher} to {entry['target']}"
    return el(
        "div",
        el("span", f"{teacher} ({entry['source']})"),
        el("img", src=heat_map(entry["plan"]), alt=text, title=text) if "plan" in entry else None,
        el("dl", *(el(tag, text) for name, value in _figures(entry) for tag, text in (("dt", name), ("dd", value)))),
    )


def _figures(entry: Report) -> list[tuple[str, str]]:
    if "solver" not in entry:
        return []
    figures = [
        ("entropy", f"{entry['entropy']:.2f}"),
        ("marginal error", "0" if entry["marginal_error"] == 0 else f"{entry['marginal_error']:.0e}"),
        ("cost", "–" if entry["cost"] is None else f"{entry['cost']:.3g}"),
    ]
    if entry["transported"] < 1:
        figures.append(("transported", f"{entry['transported']:.0%}"))
    if entry["untransported"]:
        figures.append(("dropped", f"{entry['untransported']}/{entry['source']}"))
    if entry["empty_targets"]:
        figures.append(("filled", f"{entry['target'] - entry['empty_targets']}/{entry['target']}"))
    return figures


def heat_map(sketched: Report) -> str:
    """A `compressor.transport.sketch` as a PNG data URL; opacity: √mass."""
    opacity = [round(FULL * (level / FULL) ** 0.5) for level in range(FULL + 1)]
    size = (sketched["columns"], sketched["rows"])
    alpha = Image.frombytes("L", size, levels(sketched)).point(opacity)
    image = Image.new("RGB", size, _INK)
    image.putalpha(alpha)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
