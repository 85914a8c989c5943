"""Couplings: which teacher gave what, and a picture of each."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter

from PIL import Image

from compressor.report.describe import Report
from compressor.transport.sketch import FULL, levels

#: Colour of mass, visible on light and dark pages; cells without mass are transparent.
_INK = (47, 116, 220)


#: {stack: {layer: {part: bars of its teachers as (name, share, coordinates taken)}}}.
Stacks = dict[str, dict[int | str, dict[str, list[tuple[str, float, int]]]]]


def coordinate_maps(fusion: Report) -> list[Report]:
    """Projections, then couplings."""
    return [*(fusion.get("projections") or []), *(fusion.get("couplings") or [])]


def source_stacks(fusion: Report) -> tuple[Stacks, Counter[str]]:
    """Where the spaces of each stack's layers come from, and {teacher: coordinates taken}.

    Spaces outside layers are in the stack "", as layers with one part.
    """
    known = fusion["choices"].get("shares") or fusion["choices"].get("weights") or {}
    # The roles of a space, such as queries and values, are one.
    spaces: dict[str, list[Report]] = {}
    for entry in coordinate_maps(fusion):
        spaces.setdefault(entry["space"].partition("/")[0], []).append(entry)
    stacks, taken = Stacks(), Counter[str]()
    for space, entries in spaces.items():
        counts = Counter[str]()
        if all(entry.get("solver") == "selection" for entry in entries):
            for entry in entries:
                counts[entry["teacher"]] += entry["target"] - entry["empty_targets"]
        # A mean has a share of every teacher, although an anchor has no coupling to itself.
        weights = counts or known or {entry["teacher"]: 1.0 for entry in entries}
        total = sum(weights.values()) or 1.0
        match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", space)
        stack, layer, part = (match[1], int(match[2]), match[3]) if match else ("", space, "")
        bars = [(teacher, weight / total, counts[teacher]) for teacher, weight in weights.items() if weight]
        stacks.setdefault(stack, {}).setdefault(layer, {})[part] = bars
        taken += counts
    return stacks, taken


def alike_spaces(fusion: Report) -> list[tuple[str, str, list[Report]]]:
    """Names of spaces with the same maps, their solvers, and these maps."""
    spaces: dict[tuple[str, bool], list[Report]] = {}
    for entry in coordinate_maps(fusion):
        spaces.setdefault((entry["space"], "solver" in entry), []).append(entry)
    alike: dict[str, list[list[Report]]] = {}
    for entries in spaces.values():
        # Selections of all units differ in nothing but their space.
        content = [{key: value for key, value in entry.items() if key != "space"} for entry in entries]
        alike.setdefault(json.dumps(content, sort_keys=True), []).append(entries)
    boxes = []
    for first, *others in alike.values():
        names = ", ".join(entries[0]["space"] for entries in (first, *others))
        solvers = ", ".join(sorted({entry["solver"] for entry in first if "solver" in entry}))
        boxes.append((names, solvers or "no transport", first))
    return boxes


def heat_map(sketched: Report) -> str:
    """A `compressor.transport.sketch` as a PNG data URL; opacity: √mass."""
    opacity = [round(FULL * (level / FULL) ** 0.5) for level in range(FULL + 1)]
    size = (sketched["columns"], sketched["rows"])
    image = Image.new("RGB", size, _INK)
    image.putalpha(Image.frombytes("L", size, levels(sketched)).point(opacity))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
