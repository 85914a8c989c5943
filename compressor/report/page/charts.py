"""Charts: scales and positions; `templates/chart.svg.j2` and the macro `dots` draw them, at a phone's width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

#: Of a chart's frame in SVG units; right of it may be a column of names.
_WIDTH, _TOP, _BOTTOM, _LEFT = 360.0, 26.0, 210.0, 44.0
_RIGHT, _NAMES = 12.0, 104.0
#: Distance between baselines of names, approximate and largest mean width of a letter.
_LINE, _LETTER, _WIDE_LETTER = 13.0, 5.9, 6.8
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
            lowest, highest = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
                values = [digit * 10.0**power for power in range(lowest, highest + 1) for digit in digits]
                values = [value for value in values if self.low <= value <= self.high]
                if len(values) >= 3:
                    return values[:: math.ceil(len(values) / 6)]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= next(times for times in (0.5, 1, 2, 2.5, 5, 10) if (self.high - self.low) / (step * times) <= 5)
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step) + 1)]


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

    @property
    def key(self) -> list[tuple[str, str]]:
        """(name, colour) of a legend."""
        return [(line.name, line.colour) for line in self.lines]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The position of a point."""
        return _LEFT + self.x.share(x) * (self.right - _LEFT), _BOTTOM - self.y.share(y) * (_BOTTOM - _TOP)

    def x_ticks(self) -> list[tuple[float, str]]:
        """Positions and labels, "" where one would lie on the one before."""
        ticks, last = [], -math.inf
        for value in self.x.ticks():
            if self.points or value == int(value):
                across, label = self.at(value, self.y.low)[0], self.x.format(value)
                half = _LETTER * len(label) / 2
                fits = across - half >= last + _LETTER
                ticks.append((across, label if fits else ""))
                last = across + half if fits else last
        return ticks

    def y_ticks(self) -> list[tuple[float, str]]:
        """Positions and labels."""
        return [(self.at(self.x.low, value)[1], self.y.format(value)) for value in self.y.ticks()]

    def names(self) -> list[tuple[str, float, float, float]]:
        """Shortened names, positions of their points, and their own heights, spread inside the frame."""
        placed = sorted((self.at(point.x, point.y)[::-1], point.name) for point in self.points)
        heights = _spread([up for (up, _), _ in placed])
        letters = int(_NAMES / _WIDE_LETTER)
        return [
            (cut_name(name, letters), across, up, height)
            for ((up, across), name), height in zip(placed, heights, strict=True)
        ]

    def drawn_points(self) -> list[tuple[ChartPoint, float, float, float, float]]:
        """Points with positions and ends of their errors; rings first, and the last point, the result, over all."""
        ordered = sorted(self.points, key=lambda point: not point.hollow)
        return [
            (
                point,
                *self.at(point.x, point.y),
                self.at(point.x, point.y - point.error)[1],
                self.at(point.x, point.y + point.error)[1],
            )
            for point in ordered
        ]


@dataclass(frozen=True)
class DotRows:
    """Dots of several models in a row per group, as (position in percent, colour, ring); the last two are joined."""

    title: str
    rows: Sequence[tuple[str, Sequence[tuple[float, str, bool]]]]
    ticks: Sequence[tuple[float, str]]
    key: Sequence[tuple[str, str]]
    caption: str


def scatter_chart(points: Sequence[ChartPoint], x_title: str, y_title: str, *, percent: bool) -> Chart | None:
    """Scores over logarithmic costs; `percent`: scores are shares."""
    points = [point for point in points if math.isfinite(point.y)]
    if not points:
        return None
    heights = [point.y + side * point.error for point in points for side in (-1, 1)]
    x = AxisScale.over(x_title, [point.x for point in points], log=True, margin=0.12)
    y = AxisScale.over(y_title, heights, margin=0.1, percent=percent)
    described = "; ".join(f"{point.name}: {x.format(point.x)}, {y.format(point.y)}" for point in points)
    return Chart(x, y, f"{y_title} against {x_title}. {described}", points=points)


def line_chart(lines: Sequence[Line], x_title: str, y_title: str, description: str, caption: str = "") -> Chart | None:
    """Lines over whole numbers, such as steps; infinite values are left out."""
    lines = [replace(line, points=[point for point in line.points if math.isfinite(point[1])]) for line in lines]
    points = [point for line in lines for point in line.points]
    if not points:
        return None
    x, y = zip(*points, strict=True)
    scales = AxisScale.over(x_title, x, log=False, margin=0.03), AxisScale.over(y_title, y)
    return Chart(*scales, description, lines=lines, caption=caption)


def dot_rows(
    rows: Sequence[tuple[str, Sequence[float]]], key: Sequence[tuple[str, str, bool]], title: str, caption: str,
    *, percent: bool,
) -> DotRows | None:  # fmt: skip
    """Scores by group: names of groups and a score per model; `key`: name, colour and ring of each model."""
    rows = [(name, scores) for name, scores in rows if all(map(math.isfinite, scores))]
    if not rows:
        return None
    scale = AxisScale.over(title, [score for _, scores in rows for score in scores], margin=0.06, percent=percent)
    placed = [
        (name, [(100 * scale.share(score), *model[1:]) for score, model in zip(scores, key, strict=True)])
        for name, scores in rows
    ]
    ticks = [(100 * scale.share(value), scale.format(value)) for value in scale.ticks()]
    return DotRows(title, placed, ticks, [model[:2] for model in key], caption)


def _spread(heights: Sequence[float]) -> list[float]:
    """Rising heights, spread by a line's height inside the frame."""
    low, high = _TOP, _BOTTOM - 4
    line = min(_LINE, (high - low) / max(len(heights) - 1, 1))
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + line if placed else low))
    limit = high
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - line
    return placed


def cut_name(name: str, letters: int) -> str:
    """A name shortened in the middle, since many differ at their ends."""
    if len(name) <= letters:
        return name
    end = max(letters - 1, 2) // 2
    return f"{name[: max(letters - 1 - end, 1)]}…{name[-end:]}"
