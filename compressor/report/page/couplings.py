"""Couplings: their pictures and figures, alike ones once."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence

from PIL import Image

from compressor.report.describe import Report
from compressor.report.page.elements import Card, Cards, Element, Group, Text
from compressor.transport.sketch import FULL, levels

#: Colour of mass, visible on light and dark pages; cells without mass are transparent.
_INK = (47, 116, 220)
_TEXT = (
    "A coupling gives how much of each teacher coordinate goes to each student coordinate: {count} of them, "
    "{different} of which differ."
)
_NOTES = (
    "In the pictures rows are the teacher’s coordinates and columns the student’s, sorted by where their mass comes "
    "from: a hard map is a thin diagonal, a soft one a broad band, and an empty row was dropped. Colour is the square "
    "root of the mass; more than 64 coordinates are drawn in blocks. Spaces with the same couplings share one picture.",
    "Entropy is in nats. The marginal error is the largest share by which a row or column misses its mass. The cost is "
    "the transport cost of the plan, in units of the ground cost; maps that select coordinates, or are made of other "
    "maps, have none (channels within heads share the cost of the heads).",
)
_PROJECTIONS = (
    "A space marked “no transport” has a map that is not a coupling (principal components, matched experts, heads of "
    "another size): its picture is the square of the matrix from the student’s coordinates to the teacher’s."
)


def couplings_section(report: Report, names: Mapping[str, str]) -> list[Element]:
    """Heat maps and figures of all spaces."""
    fusion = report["fusion"]
    couplings, projections = fusion.get("couplings") or [], fusion.get("projections") or []
    if not couplings and not projections:
        return []
    spaces: dict[tuple[str, bool], list[Report]] = {}
    for entry in (*projections, *couplings):
        spaces.setdefault((entry["space"], "solver" in entry), []).append(entry)
    alike: dict[str, list[list[Report]]] = {}
    for entries in spaces.values():
        # Selections of all units differ in nothing but their space.
        content = [{key: value for key, value in entry.items() if key != "space"} for entry in entries]
        alike.setdefault(json.dumps(content, sort_keys=True), []).append(entries)
    different = sum(len(group[0]) for group in alike.values())
    notes = [*_NOTES, *([_PROJECTIONS] if projections else [])]
    boxes = Group("boxes", [_space(group, names) for group in alike.values()])
    return [
        _TEXT.format(count=len(couplings) + len(projections), different=different),
        Group("details", [*map(Text, notes), boxes], f"all {different} pictures, with their figures"),
    ]


def _space(group: Sequence[Sequence[Report]], names: Mapping[str, str]) -> Cards:
    """A box for spaces with the same couplings."""
    entries = group[0]
    solvers = ", ".join(sorted({entry["solver"] for entry in entries if "solver" in entry})) or "no transport"
    cards = [_plan(entry, names.get(entry["teacher"], entry["teacher"])) for entry in entries]
    text = f"{solvers}, to {entries[0]['target']} coordinates of the student"
    return Cards(cards, ", ".join(alike[0]["space"] for alike in group), text)


def _plan(entry: Report, teacher: str) -> Card:
    return Card(
        title=f"{teacher} ({entry['source']})",
        description=f"{entry['space']}: from {entry['source']} coordinates of {teacher} to {entry['target']}",
        picture=heat_map(entry["plan"]) if "plan" in entry else None,
        figures=_figures(entry) if "solver" in entry else [],
    )


def _figures(entry: Report) -> list[tuple[str, str]]:
    """Figures of a coupling; reports of before have no pairs."""
    source, target = entry["source"], entry["target"]
    optional = {
        "transported": f"{entry['transported']:.0%}" if entry["transported"] < 1 else "",
        "shared": f"{entry['paired']}/{target}" if entry.get("paired") else "",
        "dropped": f"{entry['untransported']}/{source}" if entry["untransported"] else "",
        "filled": f"{target - entry['empty_targets']}/{target}" if entry["empty_targets"] else "",
    }
    return [
        ("entropy", f"{entry['entropy']:.3f}"),
        ("marginal error", "0" if entry["marginal_error"] == 0 else f"{entry['marginal_error']:.1e}"),
        ("cost", "–" if entry["cost"] is None else f"{entry['cost']:.4g}"),
        *((name, text) for name, text in optional.items() if text),
    ]


def heat_map(sketched: Report) -> str:
    """A `compressor.transport.sketch` as a PNG data URL; opacity: √mass."""
    opacity = [round(FULL * (level / FULL) ** 0.5) for level in range(FULL + 1)]
    size = (sketched["columns"], sketched["rows"])
    image = Image.new("RGB", size, _INK)
    image.putalpha(Image.frombytes("L", size, levels(sketched)).point(opacity))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
