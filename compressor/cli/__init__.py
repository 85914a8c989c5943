"""The command `compress`: parse, call one function, render."""

from compressor.cli.main import main, run_command

__all__ = ["main", "run_command"]
