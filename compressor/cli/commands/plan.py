"""`compress plan`: the student's size before any weights are read."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from compressor.cli import options as o
from compressor.cli.console import loading, print_json, print_note, print_notes, print_results, working
from compressor.cli.early_checks import check_inputs_early
from compressor.cli.parsing import split_list
from compressor.errors import UserError
from compressor.utils.consent import code_trusted

#: Flags that only `--curve` needs, and its samples unless given: pilots are small.
_CURVE_FLAGS = (*o.DATA_FLAGS, "--samples", "--eval-samples", "--device")
_PILOT_SAMPLES = {"--samples": 256, "--eval-samples": "500"}


@o.takes_flags("--revision", "--trust-remote-code", *o.SHAPE, "--classes", *_CURVE_FLAGS, "--threads")
def plan_command(
    teachers: o.Teachers,
    given: o.Given,
    length: o.Length = 128,
    curve: Annotated[
        str | None,
        typer.Option(metavar="W,W,...", help="Also fuse a pilot of each width, from 256 samples, and score it."),
    ] = None,
    curve_into: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="With --curve: a former output whose page gets the curve.")
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Show what a width and a depth give: shapes, parameters and MACs, before and after. No weights are read.

    Instead of a width, a target of parameters, MACs or latency picks one; latency is measured on random weights.
    With --curve weights and samples are read, and each width is scored.

    Example: compress plan --width 0.5 ./teacher-a ./teacher-b
    """
    widths = _widths(curve, curve_into, given)
    recipe = o.to_recipe({"--teachers": tuple(teachers), **given})
    check_inputs_early(recipe)
    with working(debug, quiet) as progress, code_trusted(recipe.trust_remote_code):
        with loading():
            from compressor.pipeline.plan import plan_student

        plan = plan_student(
            recipe.teachers,
            recipe.width,
            depth=recipe.depth,
            narrowing=recipe.fusion.narrowing,
            ratios=recipe.fusion.ratios,
            classes=recipe.fusion.classes,
            length=length,
            budget=recipe.target,
            threads=recipe.threads,
            progress=progress,
        )
        if widths:
            with loading():
                from compressor.pipeline.curve import width_curve

            pilots = o.to_recipe({"--teachers": tuple(teachers), **_PILOT_SAMPLES, **_not_none(given)})
            plan["curve"] = width_curve(pilots, widths, folder=curve_into, progress=progress, remark=print_note)
    print_notes(plan["notes"])
    if json:
        print_json(plan)
        return
    from compressor.report.anatomy import render_plan

    print_results(*render_plan(plan))


def _widths(curve: str | None, curve_into: str | None, given: o.Given) -> list[float]:
    """The widths of a curve; [] without one."""
    if curve is None:
        used = [name for name in _CURVE_FLAGS if given.get(name) is not None]
        used += ["--curve-into"] if curve_into is not None else []
        if used:
            raise UserError(f"{used[0]} is of pilots: add --curve, such as --curve 0.25,0.5,0.75")
        return []
    try:
        return [float(part) for part in split_list(curve)]
    except ValueError:
        raise UserError(f"--curve is a list of widths, such as 0.25,0.5,0.75, not {curve!r}") from None


def _not_none(given: o.Given) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}
