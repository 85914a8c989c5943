"""A table of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PageTable:
    """Titles and rows; `words`: cells wrap; `mark_last`: the last row stands out."""

    titles: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    words: bool = False
    mark_last: bool = False
