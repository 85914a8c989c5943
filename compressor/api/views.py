"""Results that show themselves: a few lines of text, and HTML in a notebook."""

from __future__ import annotations

import html
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Columns of a table in text.
WIDTH = 100


class FactView(ABC):
    """Shows a title and facts, a line each."""

    @abstractmethod
    def title(self) -> str:
        """The first line."""

    @abstractmethod
    def facts(self) -> Sequence[tuple[str, str]]:
        """(name, text) of the other lines."""

    def __repr__(self) -> str:
        return "\n".join([self.title(), *(f"  {name}: {text}" for name, text in self.facts())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(text)}</td></tr>'
            for name, text in self.facts()
        )
        return f"<table><caption>{html.escape(self.title())}</caption>{rows}</table>"


class TableView(ABC):
    """Shows what the command prints."""

    @abstractmethod
    def parts(self) -> Sequence[RenderableType]:
        """Tables and lines."""

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), record=True, width=WIDTH)
        for part in self.parts():
            if isinstance(part, str):
                console.print(part, highlight=False, markup=False, soft_wrap=True)
            else:
                console.print(part)
        lines = (line.rstrip() for line in console.export_text().splitlines())
        return "\n".join(lines).strip("\n")

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"
