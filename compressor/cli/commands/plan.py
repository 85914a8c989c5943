"""`compress plan`: the student's size before any weights are read."""

from __future__ import annotations

from compressor.cli import options as o
from compressor.cli.console import loading, print_json, print_notes, print_results, working
from compressor.cli.early_checks import check_inputs_early


@o.takes_flags(*o.SHAPE, "--threads")
def plan_command(
    teachers: o.Teachers,
    given: o.Given,
    length: o.Length = 128,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Show what a width and a depth give: shapes, parameters and MACs, before and after. No weights are read.

    Instead of a width, a target of parameters, MACs or latency picks one; latency is measured on random weights.

    Example: compress plan --width 0.5 ./teacher-a ./teacher-b
    """
    recipe = o.to_recipe({"--teachers": tuple(teachers), **given})
    check_inputs_early(recipe)
    with working(debug, quiet) as progress:
        with loading():
            from compressor.pipeline.plan import plan_student

        plan = plan_student(
            recipe.teachers,
            recipe.width,
            depth=recipe.depth,
            narrowing=recipe.fusion.narrowing,
            length=length,
            budget=recipe.target,
            threads=recipe.threads,
            progress=progress,
        )
    print_notes(plan["notes"])
    if json:
        print_json(plan)
        return
    from compressor.report.anatomy import render_plan

    print_results(*render_plan(plan))
