"""Charts: positions of all marks; `templates/macros.html.j2` draws them as SVG, at a phone's width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_WIDTH, _HEIGHT = 360.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 26.0, 40.0
#: Width of the column of names, distance between their baselines, approximate width of a letter.
_NAMES, _LINE, _LETTER = 104.0, 13.0, 5.9
#: Colours of lines, as variables of the style sheet.
COLOURS = ("--accent", "--warm", "--third", "--fourth", "--calm", "--ink")
#: Of teachers; the result is drawn in --accent, other students in --warm.
TEACHER_COLOURS = ("--third", "--fourth", "--fifth", "--sixth", "--calm")


@dataclass(frozen=True)
class AxisScale:
    """An axis: title, range, scale."""

    title: str
    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, title: str, values: Sequence[float], *, log: bool | None = None, margin: float = 0.08) -> AxisScale:
        """An axis with a margin, logarithmic if values differ tenfold, unless `log` says."""
        low, high = min(values), max(values)
        logarithmic = low > 0 and (high > 10 * low if log is None else log)
        if logarithmic:
            factor = max((high / low) ** margin, 1.05)
            return cls(title, low / factor, high * factor, True)
        padding = (high - low) * margin or abs(high) * margin or 1.0
        return cls(title, low - padding, high + padding, False)

    def share(self, value: float) -> float:
        """Position of a value, 0 to 1."""
        if self.log:
            return math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

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
class Mark:
    """An SVG element."""

    tag: str
    attributes: Mapping[str, object]
    text: str = ""


@dataclass
class Drawing:
    """An SVG picture; `description`: for screen readers; `key`: (name, colour) of a legend."""

    width: float
    height: float
    description: str
    marks: list[Mark] = field(default_factory=list)
    key: Sequence[tuple[str, str]] = ()
    caption: str = ""

    def add(self, tag: str, text: str = "", **attributes: object) -> None:
        """Add an element; underscores in names mean hyphens, `class_` class."""
        values = {name.rstrip("_").replace("_", "-"): _rounded(value) for name, value in attributes.items()}
        self.marks.append(Mark(tag, values, text))

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str = "axis") -> None:
        """Add a straight line."""
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)

    def text(self, text: str, x: float, y: float, anchor: str = "start", class_: str | None = None) -> None:
        """Add a text."""
        self.add("text", text, x=x, y=y, text_anchor=anchor, class_=class_)

    def dot(self, x: float, y: float, colour: str, radius: float = 4.5, *, hollow: bool = False) -> None:
        """Add a point, or a ring."""
        fill = "var(--paper)" if hollow else f"var({colour})"
        self.add("circle", cx=x, cy=y, r=radius, style=f"fill:{fill};stroke:var({colour});stroke-width:2")


@dataclass
class Plot(Drawing):
    """A drawing with axes, whose frame ends `right` before the edge."""

    right: float = _RIGHT
    x: AxisScale = AxisScale("", 0, 1, False)
    y: AxisScale = AxisScale("", 0, 1, False)

    def at(self, across: float, up: float) -> tuple[float, float]:
        """The position of a point."""
        width, height = self.width - _LEFT - self.right, self.height - _TOP - _BOTTOM
        return _LEFT + self.x.share(across) * width, _TOP + (1 - self.y.share(up)) * height

    def draw_axes(self, *, percent: bool = False, whole: bool = False) -> None:
        """Add axes; `percent`: y is a share; `whole`: x has whole numbers only."""
        bottom, end = self.height - _BOTTOM, self.width - self.right
        for value in self.y.ticks():
            up = self.at(self.x.low, value)[1]
            self.line(_LEFT, up, end, up, "grid")
            self.text(format_value(value, percent), _LEFT - 6, up + 4, "end")
        last = -math.inf
        for value in self.x.ticks():
            if not whole or value == int(value):
                across, label = self.at(value, self.y.low)[0], format_value(value)
                self.line(across, bottom, across, bottom + 4)
                half = _LETTER * len(label) / 2
                if across - half >= last + _LETTER:
                    self.text(label, across, bottom + 16, "middle")
                    last = across + half
        self.line(_LEFT, bottom, end, bottom)
        self.text(self.x.title, (_LEFT + end) / 2, self.height - 6, "middle")
        self.text(self.y.title, 2, 12)


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
    """A line through points."""

    points: Sequence[tuple[float, float]]
    colour: str = "--accent"
    faint: bool = False
    dots: bool = False


def scatter_chart(points: Sequence[ChartPoint], x_title: str, y_title: str, *, percent: bool) -> Plot | None:
    """Scores over logarithmic costs, with names in a column of their own; `percent`: scores are shares."""
    points = [point for point in points if math.isfinite(point.y)]
    if not points:
        return None
    heights = [point.y + side * point.error for point in points for side in (-1, 1)]
    description = "; ".join(
        f"{point.name}: {format_value(point.x)}, {format_value(point.y, percent)}" for point in points
    )
    plot = Plot(
        _WIDTH, _HEIGHT, f"{y_title} against {x_title}. {description}", right=_NAMES + _RIGHT,
        x=AxisScale.over(x_title, [point.x for point in points], log=True, margin=0.12),
        y=AxisScale.over(y_title, heights, log=False if percent else None, margin=0.1),
    )  # fmt: skip
    plot.draw_axes(percent=percent)
    placed = sorted(((*plot.at(point.x, point.y), point) for point in points), key=lambda entry: entry[1])
    start = _WIDTH - _NAMES
    for (across, up, point), height in zip(placed, _spread([up for _, up, _ in placed]), strict=True):
        plot.add("polyline", points=f"{across:.1f},{up:.1f} {start - 10:.1f},{height:.1f} {start - 3:.1f},{height:.1f}",
                 class_="lead")  # fmt: skip
        plot.text(cut_name(point.name, int(_NAMES / _LETTER)), start, height + 4, class_="name")
    # Full points last, over rings, and the last one, the result, over all.
    for point in sorted(points, key=lambda point: not point.hollow):
        across, up = plot.at(point.x, point.y)
        if point.error:
            ends = [plot.at(point.x, point.y + side * point.error)[1] for side in (-1, 1)]
            plot.add("line", x1=across, x2=across, y1=ends[0], y2=ends[1], style=f"stroke:var({point.colour})")
        plot.dot(across, up, point.colour, hollow=point.hollow)
    return plot


def line_chart(
    lines: Sequence[Line], x_title: str, y_title: str, description: str, *, log: bool | None = None
) -> Plot | None:
    """Lines over whole numbers, such as steps; infinite points are skipped; `log`: see `AxisScale.over`."""
    finite = [[point for point in line.points if math.isfinite(point[1])] for line in lines]
    if not any(finite):
        return None
    x, y = ([point[axis] for points in finite for point in points] for axis in (0, 1))
    plot = Plot(
        _WIDTH, _HEIGHT, description, x=AxisScale.over(x_title, x, log=False, margin=0.03),
        y=AxisScale.over(y_title, y, log=log),
    )  # fmt: skip
    plot.draw_axes(whole=True)
    for line, points in zip(lines, finite, strict=True):
        positions = [plot.at(*point) for point in points]
        style = f"fill:none;stroke:var({line.colour});stroke-width:{1 if line.faint else 2};stroke-linejoin:round"
        plot.add(
            "polyline",
            points=" ".join(f"{across:.1f},{up:.1f}" for across, up in positions),
            style=style + (";opacity:.35" if line.faint else ""),
        )
        if line.dots:
            for across, up in positions:
                plot.add("circle", cx=across, cy=up, r=2.5, style=f"fill:var({line.colour})")
    return plot


def row_chart(rows: Sequence[tuple[str, Sequence[ChartPoint]]], x_title: str, *, percent: bool) -> Drawing | None:
    """Points of several models in one row per group, on one scale; the last two points are joined."""
    values = [point.x for _, points in rows for point in points if math.isfinite(point.x)]
    if not values:
        return None
    scale = AxisScale.over(x_title, values, log=False if percent else None, margin=0.06)
    pitch, left = 20.0, _NAMES + 6
    end, bottom = _WIDTH - _RIGHT, 8 + pitch * len(rows)
    drawing = Drawing(_WIDTH, bottom + _BOTTOM, f"{x_title} of each group")

    def place(value: float) -> float:
        return left + scale.share(value) * (end - left)

    for value in scale.ticks():
        drawing.line(place(value), 4, place(value), bottom, "grid")
        drawing.text(format_value(value, percent), place(value), bottom + 16, "middle")
    drawing.text(x_title, (left + end) / 2, bottom + 34, "middle")
    for index, (name, points) in enumerate(rows):
        height = 8 + pitch * (index + 0.5)
        shown = [point for point in points if math.isfinite(point.x)]
        drawing.text(cut_name(name, int(_NAMES / _LETTER)), _NAMES, height + 4, "end", "name")
        if len(shown) > 1:
            drawing.line(place(shown[-2].x), height, place(shown[-1].x), height)
        for point in shown:
            drawing.dot(place(point.x), height, point.colour, 4.0, hollow=point.hollow)
    return drawing


def format_value(value: float, percent: bool = False) -> str:
    """A value with few digits, as a percentage if asked."""
    if percent:
        return f"{100 * value:.3g} %"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    digits, _, power = f"{value:.2g}".partition("e")
    return f"{digits}e{int(power)}" if power else digits


def _spread(heights: Sequence[float]) -> list[float]:
    """Rising heights, spread by a line's height inside the frame."""
    low, high = _TOP, _HEIGHT - _BOTTOM - 4
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


def _rounded(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
