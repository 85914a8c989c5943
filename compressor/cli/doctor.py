"""The command that looks at the machine: doctor."""

from __future__ import annotations

from compressor.cli import options as o
from compressor.cli.show import loading, say, say_json, working


def doctor(json: o.Json = False, debug: o.Debug = False) -> None:
    """Show versions, devices, threads, memory and caches, and what is wrong with them.

    Example: compress doctor
    """
    with working(debug):
        with loading():
            from compressor.pipeline.doctor import examine

        found = examine()
    if json:
        say_json(found)
        return
    from compressor.report.doctor import render_doctor

    say(*render_doctor(found))
