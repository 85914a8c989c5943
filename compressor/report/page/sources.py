"""Which teacher gave what: one picture of the whole student."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.report.describe import Report
from compressor.report.page.charts import TEACHER_COLOURS
from compressor.report.page.elements import Element, Group, SourceShares

_TEXT = (
    "Each bar is one space of the student, layers from bottom to top. A figure is the number of heads or hidden units "
    "that were taken from a teacher; bars without figures are means of the teachers’ coordinates, by their shares."
)


@dataclass(frozen=True)
class SpaceShares:
    """Where one space of the student comes from.

    Attributes:
        stack, layer, part: None, None and the space's name outside layers.
        shares: {teacher: share}, summing to 1.
        counts: {teacher: coordinates taken}; empty if every coordinate is a mean.
    """

    stack: str | None
    layer: int | None
    part: str
    shares: Mapping[str, float]
    counts: Mapping[str, int]


def sources_section(report: Report, names: Mapping[str, str]) -> list[Element]:
    """Bars of all spaces, by stack, and totals; nothing without couplings."""
    spaces = space_shares(report)
    if not spaces:
        return []
    totals = {name: sum(space.counts.get(name, 0) for space in spaces) for name in names}
    taken = sum(totals.values())
    counted = ", ".join(f"{names[name]} {count} of {taken}" for name, count in totals.items())
    colours = {name: TEACHER_COLOURS[index % len(TEACHER_COLOURS)] for index, name in enumerate(names)}
    stacks = [_stack(spaces, name, colours) for name in dict.fromkeys(space.stack for space in spaces)]
    texts: list[Element] = [*([f"Heads and hidden units taken: {counted}."] if taken else []), _TEXT]
    return [
        Group("columns", [SourceShares(stacks, [(names[name], colour) for name, colour in colours.items()]), texts])
    ]


def _stack(
    spaces: Sequence[SpaceShares], name: str | None, colours: Mapping[str, str]
) -> tuple[str, list[str], list[tuple[str, list[list[tuple[float, str, int]]]]]]:
    """Layers from top to bottom, parts as columns; of spaces outside layers each is a row."""
    rows: dict[str, dict[str, list[tuple[float, str, int]]]] = {}
    for space in sorted(spaces, key=lambda space: -(space.layer or 0)):
        if space.stack == name:
            whole = f"{space.part}: the whole stream" if space.part == "residual" else space.part
            title, part = (str(space.layer), space.part) if name else (whole, "")
            rows.setdefault(title, {})[part] = [
                (100 * share, colours.get(teacher, "--calm"), space.counts.get(teacher, 0))
                for teacher, share in space.shares.items()
                if share > 0
            ]
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    bars = [(title, [row.get(part, []) for part in parts]) for title, row in rows.items()]
    return f"layer of {name}" if name else "", parts, bars


def space_shares(report: Report) -> list[SpaceShares]:
    """Shares of all spaces with a map; the roles of a space, such as queries and values, are one."""
    fusion = report["fusion"]
    known = fusion["choices"].get("shares") or fusion["choices"].get("weights") or {}
    by_space: dict[str, list[Report]] = {}
    for entry in (*(fusion.get("projections") or []), *(fusion.get("couplings") or [])):
        by_space.setdefault(entry["space"].partition("/")[0], []).append(entry)
    spaces = []
    for name, entries in by_space.items():
        counts: dict[str, int] = {}
        if all(entry.get("solver") == "selection" for entry in entries):
            for entry in entries:
                taken = entry["target"] - entry["empty_targets"]
                counts[entry["teacher"]] = counts.get(entry["teacher"], 0) + taken
        # A mean has a share of every teacher, although an anchor has no coupling to itself.
        weights: Mapping[str, float] = counts or known or {entry["teacher"]: 1.0 for entry in entries}
        total = sum(weights.values()) or 1.0
        match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", name)
        stack, layer, part = (match[1], int(match[2]), match[3]) if match else (None, None, name)
        shares = {teacher: weight / total for teacher, weight in weights.items()}
        spaces.append(SpaceShares(stack, layer, part, shares, counts))
    return spaces
