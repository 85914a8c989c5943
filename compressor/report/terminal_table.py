"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.table import Table
from rich.text import Text

#: What a row says where it has no value.
MISSING = "–"


class ShownRow(Protocol):
    """A row that knows what it shows, such as `compressor.bench.rows.Row`."""

    def cells(self) -> dict[str, str]:
        """Column title to text, in order."""
        ...


def render_table(rows: Sequence[ShownRow]) -> Table:
    """The rows as a table that fits 80 columns; columns in which no row has a value are left out."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    shown = [row.cells() for row in rows]
    titles = [title for title in (shown[0] if shown else ()) if any(cells[title] != MISSING for cells in shown)]
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index == 0 else "right", no_wrap=index > 0, overflow="fold")
    for cells in shown:
        # As text, so that a name in brackets is not taken for markup.
        table.add_row(*(Text(cells[title]) for title in titles))
    return table
