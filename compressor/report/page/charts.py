"""Charts as inline SVG, at a phone's width."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from compressor.report.page.markup import Markup, el

_WIDTH, _HEIGHT = 360.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 26.0, 40.0
#: Distance between the baselines of two names.
_LINE = 13.0
#: Approximate width of a letter.
_LETTER = 5.9
#: Colours of lines, as variables of the style sheet.
COLOURS = ("--accent", "--warm", "--third", "--fourth", "--calm", "--ink")


@dataclass(frozen=True)
class AxisScale:
    """An axis: title, range, scale."""

    title: str
    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, title: str, values: Sequence[float], *, log: bool | None = None, margin: float = 0.08) -> AxisScale:
        """An axis with a margin; `log`: see `line_chart`."""
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


def scatter_chart(points: Sequence[ChartPoint], x_title: str, y_title: str, *, percent: bool) -> Markup:
    """Scores over logarithmic costs, at least one point; `percent`: scores are shares."""
    points = [point for point in points if math.isfinite(point.y)]
    if not points:
        return el("p", f"{y_title}: no model has a finite one")
    x = AxisScale.over(x_title, [point.x for point in points], log=True, margin=0.12)
    heights = [point.y + side * point.error for point in points for side in (-1, 1)]
    y = AxisScale.over(y_title, heights, log=False if percent else None, margin=0.1)
    marks: list[Markup] = []
    for point in points:
        across, up = _position(x, y, point.x, point.y)
        if point.error:
            ends = [_position(x, y, point.x, point.y + side * point.error)[1] for side in (-1, 1)]
            marks.append(el("line", x1=_n(across), x2=_n(across), y1=_n(ends[0]), y2=_n(ends[1]),
                            style=f"stroke:var({point.colour});opacity:.6"))  # fmt: skip
        fill = "var(--paper)" if point.hollow else f"var({point.colour})"
        marks.append(el("circle", cx=_n(across), cy=_n(up), r=4.5,
                        style=f"fill:{fill};stroke:var({point.colour});stroke-width:2"))  # fmt: skip
    description = "; ".join(f"{point.name}: {_tick(point.x)}, {_value(point.y, percent)}" for point in points)
    return _chart(x, y, [*marks, *_names(x, y, points)], f"{y_title} against {x_title}. {description}", percent=percent)


def line_chart(
    lines: Sequence[Line], x_title: str, y_title: str, description: str, *, log: bool | None = None
) -> Markup:
    """Lines over whole numbers, such as steps; infinite points are skipped.

    Args:
        description: for screen readers.
        log: y axis; default: if values differ tenfold.
    """
    lines = [replace(line, points=[p for p in line.points if math.isfinite(p[1])]) for line in lines]
    xs = [point[0] for line in lines for point in line.points]
    ys = [point[1] for line in lines for point in line.points]
    if not xs:
        return el("p", f"{y_title}: none is finite")
    x = AxisScale.over(x_title, xs, log=False, margin=0.03)
    y = AxisScale.over(y_title, ys, log=log)
    marks: list[Markup] = []
    for line in lines:
        positions = [_position(x, y, *point) for point in line.points]
        width = 1 if line.faint else 2
        marks.append(
            el("polyline", points=" ".join(f"{_n(across)},{_n(up)}" for across, up in positions),
               style=f"fill:none;stroke:var({line.colour});stroke-width:{width};stroke-linejoin:round"
                     + (";opacity:.35" if line.faint else ""))
        )  # fmt: skip
        if line.dots:
            marks += [
                el("circle", cx=_n(across), cy=_n(up), r=2.5, style=f"fill:var({line.colour})")
                for across, up in positions
            ]
    return _chart(x, y, marks, description, whole=True)


def chart_key(entries: Sequence[tuple[str, str]]) -> Markup:
    """A legend of (name, style variable)."""
    return el("ul", *(el("li", el("i", style=f"background:var({colour})"), name) for name, colour in entries),
              class_="key")  # fmt: skip


def _chart(
    x: AxisScale,
    y: AxisScale,
    marks: Sequence[Markup],
    description: str,
    *,
    percent: bool = False,
    whole: bool = False,
) -> Markup:
    parts: list[Markup] = []
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in y.ticks():
        up = _n(_position(x, y, x.low, value)[1])
        parts.append(el("line", x1=_n(_LEFT), x2=_n(right), y1=up, y2=up, class_="grid"))
        parts.append(_text(_value(value, percent), _LEFT - 6, float(up) + 4, "end"))
    for value in x.ticks():
        if whole and value != int(value):
            continue
        across = _position(x, y, value, y.low)[0]
        parts.append(el("line", x1=_n(across), x2=_n(across), y1=_n(bottom), y2=_n(bottom + 4), class_="axis"))
        parts.append(_text(_tick(value), across, bottom + 16, "middle"))
    parts.append(el("line", x1=_n(_LEFT), x2=_n(right), y1=_n(bottom), y2=_n(bottom), class_="axis"))
    parts.append(_text(x.title, (_LEFT + right) / 2, _HEIGHT - 6, "middle"))
    parts.append(_text(y.title, 2, 12, "start"))
    box = f"0 0 {_n(_WIDTH)} {_n(_HEIGHT)}"
    return el("svg", el("title", description), *parts, *marks, viewBox=box, role="img")


def _names(x: AxisScale, y: AxisScale, points: Sequence[ChartPoint]) -> Iterator[Markup]:
    """Names of the points, without overlap."""
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    for right in (False, True):
        side = [(point, *_position(x, y, point.x, point.y)) for point in points]
        side = sorted((entry for entry in side if (entry[1] <= middle) == right), key=lambda entry: entry[2])
        heights = _spread([up for _, _, up in side])
        for (point, across, up), height in zip(side, heights, strict=True):
            start = across + (9 if right else -9)
            if abs(height - up) > 2:
                yield el("line", x1=_n(across), y1=_n(up), x2=_n(start), y2=_n(height), class_="lead")
            letters = int(((_WIDTH - start) if right else (start - _LEFT)) / _LETTER)
            shift, anchor = (2, "start") if right else (-2, "end")
            yield _text(_cut(point.name, letters), start + shift, height + 4, anchor, class_="name")


def _spread(heights: Sequence[float]) -> list[float]:
    """Rising heights, spread by a line's height."""
    blocks: list[list[float]] = []
    for height in heights:
        blocks.append([height])
        # A block is centred at the mean of its members; overlapping blocks merge.
        while len(blocks) > 1 and _edges(blocks[-2])[1] + _LINE > _edges(blocks[-1])[0]:
            last = blocks.pop()
            blocks[-1] += last
    return [start + index * _LINE for block in blocks for start in [_edges(block)[0]] for index in range(len(block))]


def _edges(block: Sequence[float]) -> tuple[float, float]:
    """A block's first and last height."""
    half = (len(block) - 1) * _LINE / 2
    middle = min(max(sum(block) / len(block), _TOP + half), _HEIGHT - _BOTTOM - 4 - half)
    return middle - half, middle + half


def _position(x: AxisScale, y: AxisScale, across: float, up: float) -> tuple[float, float]:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return _LEFT + x.share(across) * width, _TOP + (1 - y.share(up)) * height


def _text(text: str, x: float, y: float, anchor: str, **attributes: object) -> Markup:
    return el("text", text, x=_n(x), y=_n(y), text_anchor=anchor, **attributes)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: max(letters - 1, 1)] + "…"


def _value(value: float, percent: bool) -> str:
    return f"{100 * value:.3g} %" if percent else _tick(value)


def _tick(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    digits, _, power = f"{value:.2g}".partition("e")
    return f"{digits}e{int(power)}" if power else digits


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
