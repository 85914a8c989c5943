"""Couplings: their pictures and figures, alike ones once."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from compressor.report.describe import Report
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


def couplings_view(report: Report, names: Mapping[str, str]) -> dict[str, Any] | None:
    """Heat maps and figures of all spaces."""
    fusion = report["fusion"]
    couplings, projections = fusion.get("couplings") or [], fusion.get("projections") or []
    if not couplings and not projections:
        return None
    alike: dict[str, list[list[Report]]] = {}
    for entries in (*_by_space(projections), *_by_space(couplings)):
        # Selections of all units differ in nothing but their space.
        content = [{key: value for key, value in entry.items() if key != "space"} for entry in entries]
        alike.setdefault(json.dumps(content, sort_keys=True), []).append(entries)
    spaces = [_space(group, names) for group in alike.values()]
    different = sum(len(group[0]) for group in alike.values())
    return {
        "text": _TEXT.format(count=len(couplings) + len(projections), different=different),
        "summary": f"all {different} pictures, with their figures",
        "notes": [*_NOTES, *([_PROJECTIONS] if projections else [])],
        "spaces": spaces,
    }


def _by_space(entries: Sequence[Report]) -> list[list[Report]]:
    """Entries grouped by space."""
    groups: dict[str, list[Report]] = {}
    for entry in entries:
        groups.setdefault(entry["space"], []).append(entry)
    return list(groups.values())


def _space(group: Sequence[Sequence[Report]], names: Mapping[str, str]) -> dict[str, Any]:
    """A card for spaces with the same couplings."""
    entries = group[0]
    solvers = ", ".join(sorted({entry["solver"] for entry in entries if "solver" in entry})) or "no transport"
    plans = [_plan(entry, names.get(entry["teacher"], entry["teacher"])) for entry in entries]
    text = f"{solvers}, to {entries[0]['target']} coordinates of the student"
    return {"names": [alike[0]["space"] for alike in group], "text": text, "plans": plans}


def _plan(entry: Report, teacher: str) -> dict[str, Any]:
    return {
        "title": f"{teacher} ({entry['source']})",
        "description": f"{entry['space']}: from {entry['source']} coordinates of {teacher} to {entry['target']}",
        "picture": heat_map(entry["plan"]) if "plan" in entry else None,
        "figures": _figures(entry) if "solver" in entry else [],
    }


def _figures(entry: Report) -> list[tuple[str, str]]:
    figures = [
        ("entropy", f"{entry['entropy']:.3f}"),
        ("marginal error", "0" if entry["marginal_error"] == 0 else f"{entry['marginal_error']:.1e}"),
        ("cost", "–" if entry["cost"] is None else f"{entry['cost']:.4g}"),
    ]
    if entry["transported"] < 1:
        figures.append(("transported", f"{entry['transported']:.0%}"))
    # Reports of before have no such figure.
    if entry.get("paired"):
        figures.append(("shared", f"{entry['paired']}/{entry['target']}"))
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
