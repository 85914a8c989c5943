"""Which teacher gave what: one picture of the whole student."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report.describe import Report
from compressor.report.page.charts import TEACHER_COLOURS, Drawing, cut_name

_TEXT = (
    "Each bar is one space of the student, layers from bottom to top. A figure is the number of heads or hidden units "
    "that were taken from a teacher; bars without figures are means of the teachers’ coordinates, by their shares."
)
_ROW, _GAP, _LABELS, _TOP, _WIDTH = 18.0, 4.0, 24.0, 18.0, 400.0


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


def sources_view(report: Report, names: Mapping[str, str]) -> dict[str, Any] | None:
    """The picture, and totals; None without couplings."""
    spaces = space_shares(report)
    if not spaces:
        return None
    totals = {name: sum(space.counts.get(name, 0) for space in spaces) for name in names}
    taken = sum(totals.values())
    counted = ", ".join(f"{names[name]} {count} of {taken}" for name, count in totals.items())
    texts = [*([f"Heads and hidden units taken: {counted}."] if taken else []), _TEXT]
    return {"texts": texts, "picture": _draw(spaces, names)}


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


def _draw(spaces: Sequence[SpaceShares], names: Mapping[str, str]) -> Drawing:
    """Stacks below each other, layers as rows, parts as columns; spaces outside layers across the whole width."""
    colours = {name: TEACHER_COLOURS[index % len(TEACHER_COLOURS)] for index, name in enumerate(names)}
    drawing = Drawing(_WIDTH, 0.0, "Share of each teacher in every space of the student")
    drawing.key = [(names[name], colour) for name, colour in colours.items()]
    top = 4.0
    for stack in dict.fromkeys(space.stack for space in spaces if space.stack):
        inside = [space for space in spaces if space.stack == stack]
        parts = list(dict.fromkeys(space.part for space in inside))
        rows = {layer: row for row, layer in enumerate(sorted({space.layer or 0 for space in inside}, reverse=True))}
        width = (_WIDTH - _LABELS) / len(parts)
        drawing.text(f"layer of {stack}", 0, top + 12)
        top += _TOP
        for column, part in enumerate(parts):
            drawing.text(cut_name(part, int((width - 8) / 6)), _LABELS + column * width, top + 12)
        top += _TOP
        for layer, row in rows.items():
            drawing.text(str(layer), _LABELS - 10, top + row * (_ROW + _GAP) + 13, "end")
        for space in inside:
            left = _LABELS + parts.index(space.part) * width
            _draw_bar(drawing, space, left, top + rows[space.layer or 0] * (_ROW + _GAP), width - 8, colours)
        top += len(rows) * (_ROW + _GAP) + 10
    for space in (space for space in spaces if space.stack is None):
        drawing.text(f"{space.part}: the whole stream" if space.part == "residual" else space.part, 0, top + 12)
        _draw_bar(drawing, space, _LABELS, top + _TOP, _WIDTH - _LABELS - 8, colours)
        top += _TOP + _ROW + 10
    drawing.height = top
    return drawing


def _draw_bar(
    drawing: Drawing, space: SpaceShares, left: float, top: float, width: float, colours: Mapping[str, str]
) -> None:
    for teacher, share in space.shares.items():
        if share <= 0:
            continue
        colour = colours.get(teacher, "--calm")
        drawing.add("rect", x=left, y=top, width=share * width, height=_ROW, style=f"fill:var({colour});opacity:.8")
        count = space.counts.get(teacher)
        if count and share * width > 8 * len(str(count)):
            drawing.text(str(count), left + share * width / 2, top + 13, "middle", "count")
        left += share * width
