"""The command `compress`: parse, call one function, render."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from compressor.cli.first_line import first_line

if TYPE_CHECKING:
    from compressor.cli.command_line import run_command

__all__ = ["main", "run_command"]


def main() -> None:
    """Entry point of the console script."""
    # Even the parser of flags takes half a second to import on a slow machine.
    with first_line(sys.argv[1:], sys.stderr):
        from compressor.cli.command_line import run_and_exit
    run_and_exit()


def __getattr__(name: str) -> Any:
    if name == "run_command":
        from compressor.cli import command_line

        return command_line.run_command
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
