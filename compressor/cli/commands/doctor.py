"""`compress doctor`: this machine and this installation."""

from __future__ import annotations

from compressor.cli import options as o
from compressor.cli.console import loading, print_json, print_results, working


def doctor_command(json: o.Json = False, debug: o.Debug = False) -> None:
    """Show versions, devices, threads, memory and caches, and their problems.

    Example: compress doctor
    """
    with working(debug):
        with loading():
            from compressor.pipeline.machine import examine_machine

        facts = examine_machine()
    if json:
        print_json(facts)
        return
    from compressor.report.doctor import render_doctor

    print_results(*render_doctor(facts))
