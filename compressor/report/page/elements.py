"""What sections of the page are made of; `templates/elements.html.j2` draws each by its class.

A text is a paragraph, and a list of elements stands for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compressor.report.page.charts import Chart, DotRows


@dataclass(frozen=True)
class Text:
    """Small type, a heading inside a section, or lines to be copied."""

    text: str
    style: Literal["note", "heading", "code"] = "note"


@dataclass(frozen=True)
class PageTable:
    """Titles and rows; `words`: cells wrap; `mark_last`: the last row stands out."""

    titles: Sequence[str]
    rows: Sequence[Sequence[object]]
    words: bool = False
    mark_last: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars as (name, figure, share of the width, whether it stands out)."""

    rows: Sequence[tuple[str, str, float, bool]]
    text: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Facts:
    """Names with values and reasons."""

    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class SourceShares:
    """Teachers' shares of every space as (percent, colour, coordinates taken).

    Attributes:
        stacks: (name, parts as columns, layers as rows with the shares of each part).
        key: (teacher, colour).
    """

    stacks: Sequence[tuple[str, Sequence[str], Sequence[tuple[str, Sequence[Sequence[tuple[float, str, int]]]]]]]
    key: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Card:
    """A picture or a quoted text, with figures as (name, value)."""

    figures: Sequence[tuple[str, str]]
    title: str = ""
    picture: str | None = None
    description: str = ""
    quote: str | None = None
    token: str | None = None


@dataclass(frozen=True)
class Cards:
    """Cards side by side; with a title, those of spaces that have the same couplings."""

    cards: Sequence[Card]
    title: str = ""
    text: str = ""


@dataclass(frozen=True)
class Group:
    """Elements side by side where there is room, boxes side by side, or elements behind a click on the summary."""

    style: Literal["columns", "boxes", "details"]
    parts: Sequence[Element]
    summary: str = ""


Element = str | Text | PageTable | Bars | Facts | SourceShares | Cards | Group | Chart | DotRows | list["Element"]
