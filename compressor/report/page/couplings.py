"""Couplings: which teacher gave what, and a picture of each."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from PIL import Image

from compressor.report.choices import teacher_names
from compressor.report.describe import Report
from compressor.report.page.charts import TEACHER_COLOURS
from compressor.transport.sketch import FULL, levels

#: Colour of mass, visible on light and dark pages; cells without mass are transparent.
_INK = (47, 116, 220)


def sources_section(report: Report) -> Report:
    """{stack: {layer: {part: its bars}}}, what was taken from each teacher, and colours; nothing without couplings."""
    names, choices = teacher_names(report), report["fusion"]["choices"]
    colours = {name: TEACHER_COLOURS[index % len(TEACHER_COLOURS)] for index, name in enumerate(names)}
    by_space: dict[str, list[Report]] = {}
    for entry in _entries(report):
        # The roles of a space, such as queries and values, are one.
        by_space.setdefault(entry["space"].partition("/")[0], []).append(entry)
    stacks: dict[str, dict[int | str, dict[str, list[tuple[float, str, int]]]]] = {}
    taken = Counter(dict.fromkeys(names, 0))
    for space, entries in by_space.items():
        shares, counts = space_shares(entries, choices.get("shares") or choices.get("weights") or {})
        taken.update(counts)
        bars = [(share, colours.get(name, "--calm"), counts.get(name, 0)) for name, share in shares.items()]
        match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", space)
        stack, layer, part = (match[1], int(match[2]), match[3]) if match else ("", space, "")
        stacks.setdefault(stack, {}).setdefault(layer, {})[part] = bars
    key = [(names[name], colour) for name, colour in colours.items()]
    return {"stacks": stacks, "taken": taken, "key": key} if stacks else {}


def space_shares(entries: Sequence[Report], known: Mapping[str, float]) -> tuple[dict[str, float], dict[str, int]]:
    """{teacher: share} of a space, and {teacher: coordinates taken}, which is empty if every coordinate is a mean.

    Args:
        entries: couplings and projections of the space.
        known: shares of means, as far as the report has them.
    """
    counts: Counter[str] = Counter()
    if all(entry.get("solver") == "selection" for entry in entries):
        for entry in entries:
            counts[entry["teacher"]] += entry["target"] - entry["empty_targets"]
    # A mean has a share of every teacher, although an anchor has no coupling to itself.
    weights: Mapping[str, float] = counts or known or {entry["teacher"]: 1.0 for entry in entries}
    total = sum(weights.values()) or 1.0
    return {teacher: weight / total for teacher, weight in weights.items()}, dict(counts)


def couplings_section(report: Report) -> Report:
    """Boxes of all spaces, as (spaces with the same couplings, solvers, their couplings)."""
    by_space: dict[tuple[str, bool], list[Report]] = {}
    for entry in _entries(report):
        by_space.setdefault((entry["space"], "solver" in entry), []).append(entry)
    alike: dict[str, list[list[Report]]] = {}
    for entries in by_space.values():
        # Selections of all units differ in nothing but their space.
        content = [{key: value for key, value in entry.items() if key != "space"} for entry in entries]
        alike.setdefault(json.dumps(content, sort_keys=True), []).append(entries)
    boxes = []
    for first, *others in alike.values():
        spaces = ", ".join(entries[0]["space"] for entries in (first, *others))
        solvers = sorted({entry["solver"] for entry in first if "solver" in entry})
        boxes.append((spaces, ", ".join(solvers) or "no transport", first))
    return {"boxes": boxes, "count": len(_entries(report)), "heat_map": heat_map} if boxes else {}


def heat_map(sketched: Report) -> str:
    """A `compressor.transport.sketch` as a PNG data URL; opacity: √mass."""
    opacity = [round(FULL * (level / FULL) ** 0.5) for level in range(FULL + 1)]
    size = (sketched["columns"], sketched["rows"])
    image = Image.new("RGB", size, _INK)
    image.putalpha(Image.frombytes("L", size, levels(sketched)).point(opacity))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _entries(report: Report) -> list[Report]:
    return [*(report["fusion"].get("projections") or []), *(report["fusion"].get("couplings") or [])]
