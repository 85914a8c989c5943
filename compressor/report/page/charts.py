"""Charts: scales and positions; `templates/chart.svg.j2` and `elements.html.j2` draw them, at a phone's width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from compressor.report.describe import Report
from compressor.report.text_width import text_width
from compressor.wording import shorten

#: Of a chart's frame in SVG units; right of it may be a column of names.
_WIDTH, _TOP, _BOTTOM, _LEFT = 360.0, 26.0, 210.0, 44.0
_RIGHT, _NAMES = 12.0, 104.0
#: Distance between baselines of names, size of the type, letters of a name.
_LINE, _SIZE, _LETTERS = 13.0, 11.0, 15
#: Colours of lines, as variables of the style sheet.
COLOURS = ("--accent", "--warm", "--third", "--fourth", "--calm", "--ink", "--fifth", "--sixth")
#: Of teachers; the result is drawn in --accent, other students in --warm.
TEACHER_COLOURS = ("--third", "--fourth", "--fifth", "--sixth", "--calm")


@dataclass(frozen=True)
class AxisScale:
    """An axis: title, range, scale; `percent`: values are shares."""

    title: str
    low: float
    high: float
    log: bool
    percent: bool = False

    @classmethod
    def over(
        cls, title: str, values: Sequence[float], *, log: bool | None = None, margin: float = 0.08,
        percent: bool = False,
    ) -> AxisScale:  # fmt: skip
        """An axis with a margin, logarithmic if values differ tenfold and are no shares, unless `log` says."""
        low, high = min(values), max(values)
        if low > 0 and (high > 10 * low and not percent if log is None else log):
            factor = max((high / low) ** margin, 1.05)
            return cls(title, low / factor, high * factor, True, percent)
        padding = (high - low) * margin or abs(high) * margin or 1.0
        return cls(title, low - padding, high + padding, False, percent)

    def share(self, value: float) -> float:
        """Position of a value, 0 to 1."""
        if self.log:
            return math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def format(self, value: float) -> str:
        """A value with few digits, but enough to tell ticks apart."""
        span = (self.high - self.low) / max(abs(self.low), abs(self.high))
        digits = max(3 if self.percent else 4, 2 - math.floor(math.log10(span)))
        if self.percent:
            return f"{100 * value:.{digits}g} %"
        if value == 0 or 1e-3 <= abs(value) < 1e5:
            return f"{value:.{digits}g}"
        figures, _, power = f"{value:.2g}".partition("e")
        return f"{figures}e{int(power)}" if power else figures

    def ticks(self) -> list[float]:
        """About five round values."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
                values = [digit * 10.0**power for power in powers for digit in digits]
                values = [value for value in values if self.low <= value <= self.high]
                if len(values) >= 3:
                    return values[:: math.ceil(len(values) / 6)]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= next(times for times in (0.5, 1, 2, 2.5, 5, 10) if (self.high - self.low) / (step * times) <= 5)
        return [index * step for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


@dataclass(frozen=True)
class ChartPoint:
    """A named point; `error`: of y; `hollow`: a ring."""

    name: str
    x: float
    y: float
    error: float = 0.0
    colour: str = "--accent"
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """A named line through points over whole numbers."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str = "--accent"
    faint: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """Points with names in a column of their own, or lines with a legend; `description`: for screen readers."""

    x: AxisScale
    y: AxisScale
    description: str
    points: Sequence[ChartPoint] = ()
    lines: Sequence[Line] = ()
    caption: str = ""

    @property
    def right(self) -> float:
        """Where the frame ends."""
        return _WIDTH - _RIGHT - (_NAMES if self.points else 0)

    def across(self, x: float) -> float:
        """The horizontal position of a value."""
        return _LEFT + self.x.share(x) * (self.right - _LEFT)

    def up(self, y: float) -> float:
        """The vertical position of a value."""
        return _BOTTOM - self.y.share(y) * (_BOTTOM - _TOP)

    def x_ticks(self) -> list[tuple[float, str]]:
        """Positions and labels, "" where one would lie on the one before."""
        ticks, last = [], -math.inf
        for value in self.x.ticks():
            if self.points or value == int(value):
                across, label = self.across(value), self.x.format(value)
                half = text_width(label, _SIZE) / 2
                fits = across - half >= last + _SIZE / 2
                ticks.append((across, label if fits else ""))
                last = across + half if fits else last
        return ticks

    def names(self) -> list[tuple[str, float, float, float]]:
        """Shortened names, positions of their points, and their own heights, spread inside the frame."""
        points = sorted(self.points, key=lambda point: (self.up(point.y), self.across(point.x)))
        low, heights = _TOP, []
        line = min(_LINE, (_BOTTOM - 4 - _TOP) / max(len(points) - 1, 1))
        for point in points:
            heights.append(max(self.up(point.y), low))
            low = heights[-1] + line
        high = _BOTTOM - 4
        for index in reversed(range(len(heights))):
            heights[index] = min(heights[index], high)
            high = heights[index] - line
        return [
            (shorten(point.name, _LETTERS), self.across(point.x), self.up(point.y), height)
            for point, height in zip(points, heights, strict=True)
        ]


@dataclass(frozen=True)
class DotRows:
    """Dots of several models in a row per group, as (position in percent, colour, ring); the last two are joined."""

    rows: Sequence[tuple[str, Sequence[tuple[float, str, bool]]]]
    ticks: Sequence[tuple[float, str]]
    key: Sequence[tuple[str, str]]
    caption: str


def scatter_chart(points: Sequence[ChartPoint], x_title: str, y_title: str, *, percent: bool) -> list[Chart]:
    """Scores over logarithmic costs; `percent`: scores are shares; nothing without points."""
    points = [point for point in points if math.isfinite(point.y)]
    if not points:
        return []
    heights = [point.y + side * point.error for point in points for side in (-1, 1)]
    x = AxisScale.over(x_title, [point.x for point in points], log=True, margin=0.12)
    y = AxisScale.over(y_title, heights, margin=0.1, percent=percent)
    described = "; ".join(f"{point.name}: {x.format(point.x)}, {y.format(point.y)}" for point in points)
    return [Chart(x, y, f"{y_title} against {x_title}. {described}", points=points)]


def line_chart(lines: Sequence[Line], x_title: str, y_title: str, description: str, caption: str = "") -> list[Chart]:
    """Lines over whole numbers, such as steps; infinite values are left out; nothing without points."""
    lines = [replace(line, points=[point for point in line.points if math.isfinite(point[1])]) for line in lines]
    points = [point for line in lines for point in line.points]
    if not points:
        return []
    x, y = zip(*points, strict=True)
    scales = AxisScale.over(x_title, x, log=False, margin=0.03), AxisScale.over(y_title, y)
    return [Chart(*scales, description, lines=lines, caption=caption)]


def dot_rows(
    rows: Sequence[tuple[str, Sequence[float]]], key: Sequence[tuple[str, str, bool]], caption: str, *, percent: bool
) -> list[DotRows]:
    """Scores by group: names of groups and a score per model; `key`: name, colour and ring of each model."""
    rows = [(name, scores) for name, scores in rows if all(map(math.isfinite, scores))]
    if not rows:
        return []
    scale = AxisScale.over("", [score for _, scores in rows for score in scores], margin=0.06, percent=percent)
    placed = [
        (name, [(100 * scale.share(score), *model[1:]) for score, model in zip(scores, key, strict=True)])
        for name, scores in rows
    ]
    ticks = [(100 * scale.share(value), scale.format(value)) for value in scale.ticks()]
    return [DotRows(placed, ticks, [model[:2] for model in key], caption)]


def row_colour(report: Report, index: int) -> tuple[str, bool]:
    """Colour of a row of the table, and whether it is drawn as a ring: teachers, ensemble, students, result."""
    rows, teachers = report["table"], len(report["recipe"]["teachers"])
    if index == len(rows) - 1:
        return "--accent", False
    if index < teachers:
        return TEACHER_COLOURS[index % len(TEACHER_COLOURS)], False
    return ("--ink", True) if rows[index]["name"] == "ensemble" else ("--warm", False)
