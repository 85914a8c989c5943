"""Charts: scales and positions, which `templates/chart.svg.j2` draws at a phone's width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from typing import NamedTuple

from compressor.report.describe import Report
from compressor.report.text_width import text_width
from compressor.wording import shorten

#: Where a chart's frame begins and ends, in SVG units; right of it is a column of names, if these are not in a key.
_LEFT, _RIGHT, _RIGHT_OF_LINES, _TOP, _BOTTOM = 44, 244, 348, 26, 210
#: Distance between baselines of names, size of the type, letters of a name.
_LINE, _SIZE, _LETTERS = 13.0, 11.0, 15
#: Colours of lines, as variables of the style sheet.
COLOURS = ("--accent", "--warm", "--third", "--fourth", "--calm", "--ink", "--fifth", "--sixth")
#: Of teachers; the result is drawn in --accent, other students in --warm.
TEACHER_COLOURS = ("--third", "--fourth", "--fifth", "--sixth", "--calm")


@dataclass(frozen=True)
class AxisScale:
    """An axis from one position to another: title, range, scale; `percent`: values are shares."""

    title: str
    positions: tuple[float, float]
    low: float
    high: float
    log: bool
    percent: bool = False

    @classmethod
    def over(
        cls, values: Sequence[float], title: str = "", positions: tuple[float, float] = (0, 100), *,
        log: bool | None = None, margin: float = 0.08, percent: bool = False,
    ) -> AxisScale:  # fmt: skip
        """An axis with a margin, logarithmic if values differ tenfold and are no shares, unless `log` says."""
        low, high = min(values), max(values)
        if low > 0 and (high > 10 * low and not percent if log is None else log):
            factor = max((high / low) ** margin, 1.05)
            return cls(title, positions, low / factor, high * factor, True, percent)
        padding = (high - low) * margin or abs(high) * margin or 1.0
        return cls(title, positions, low - padding, high + padding, False, percent)

    def at(self, value: float) -> float:
        """Position of a value."""
        share = (value - self.low) / (self.high - self.low)
        if self.log:
            share = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        return self.positions[0] + share * (self.positions[1] - self.positions[0])

    def format(self, value: float) -> str:
        """A value with few digits, but enough to tell ticks apart."""
        span = (self.high - self.low) / max(abs(self.low), abs(self.high))
        digits = max(3 if self.percent else 4, 2 - math.floor(math.log10(span)))
        if self.percent:
            return f"{100 * value:.{digits}g} %"
        figures, _, power = f"{value:.{digits}g}".partition("e")
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


class Series(NamedTuple):
    """A named line through points, with `dots` or `faint`, or one point, perhaps a `ring` or with an `error` of y."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    faint: bool = False
    ring: bool = False
    error: float = 0.0


@dataclass(frozen=True)
class Chart:
    """Points with names in a column of their own, or lines over whole numbers with a key."""

    x: AxisScale
    y: AxisScale
    series: Sequence[Series]
    names_in_column: bool

    def x_ticks(self) -> list[tuple[float, str]]:
        """Positions and labels, "" where one would lie on the one before."""
        ticks, last = [], -math.inf
        for value in self.x.ticks():
            if self.names_in_column or value == int(value):
                across, label = self.x.at(value), self.x.format(value)
                half = text_width(label, _SIZE) / 2
                fits = across - half >= last + _SIZE / 2
                ticks.append((across, label if fits else ""))
                last = across + half if fits else last
        return ticks

    def names(self) -> list[tuple[str, float, float, float]]:
        """Shortened names, positions of their points, and their own heights, spread inside the frame."""
        places = [(self.y.at(y), self.x.at(x), name) for name, _, [(x, y)], *_ in self.series]
        places.sort(key=lambda place: place[:2])
        line = min(_LINE, (_BOTTOM - 4 - _TOP) / max(len(places) - 1, 1))
        # Each at least a line below the one before; then, from the lowest, at least a line above the one after.
        down = accumulate((up for up, *_ in places), lambda above, up: max(above + line, up))
        back = accumulate(reversed(list(down)), lambda below, up: min(below - line, up), initial=_BOTTOM - 4 + line)
        heights = list(back)[:0:-1]
        return [
            (shorten(name, _LETTERS), across, up, height)
            for (up, across, name), height in zip(places, heights, strict=True)
        ]


def make_chart(
    series: Sequence[Series], x_title: str, y_title: str, *, of_costs: bool = False, percent: bool = False
) -> Chart | None:
    """Lines over whole numbers, or named points over logarithmic costs; nothing without finite values."""
    series = [one._replace(points=[place for place in one.points if math.isfinite(place[1])]) for one in series]
    series = [one for one in series if one.points]
    if not series:
        return None
    across = [x for one in series for x, _ in one.points]
    ends = [y + side * one.error for one in series for _, y in one.points for side in (-1, 1)]
    width = (_LEFT, _RIGHT if of_costs else _RIGHT_OF_LINES)
    x = AxisScale.over(across, x_title, width, log=of_costs, margin=0.12 if of_costs else 0.03)
    y = AxisScale.over(ends, y_title, (_BOTTOM, _TOP), margin=0.1, percent=percent)
    return Chart(x, y, series, of_costs)


def teacher_colours(teachers: Iterable[str]) -> dict[str, str]:
    """{teacher: colour}, in the order of the table's rows."""
    return dict(zip(teachers, cycle(TEACHER_COLOURS), strict=False))


def row_colours(report: Report) -> list[tuple[str, bool]]:
    """Colours of the table's rows, and whether they are drawn as rings: teachers, ensemble, students, result."""
    teachers = report["recipe"]["teachers"]
    others = report["table"][len(teachers) : -1]
    return [
        *((colour, False) for _, colour in zip(teachers, cycle(TEACHER_COLOURS), strict=False)),
        *(("--ink", True) if row["name"] == "ensemble" else ("--warm", False) for row in others),
        ("--accent", False),
    ]
