"""The first line on a terminal, before anything else is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

#: Flags of commands that print at once, or are asked to print no progress.
_SILENT = {"-h", "--help", "--version", "--quiet"}
_ERASE_LINE = "\r\x1b[2K"


@contextmanager
def first_line(arguments: Sequence[str], stream: TextIO) -> Iterator[None]:
    """Show on a terminal that the command has started, until the block ends."""
    asked = bool(arguments) and not arguments[0].startswith("-") and _SILENT.isdisjoint(arguments)
    # Of processes launched together the first prints.
    shown = asked and stream.isatty() and os.environ.get("RANK", "0") in ("", "0")
    if shown:
        stream.write(f"compress {arguments[0][:40]}: starting")
        stream.flush()
    try:
        yield
    finally:
        if shown:
            stream.write(_ERASE_LINE)
            stream.flush()
