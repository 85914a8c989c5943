"""`compress interpolate`: scores along the lines between models in weight space."""

from __future__ import annotations

from typing import Annotated

import typer

from compressor.cli import options as o
from compressor.cli.commands.landscape import model_argument, picture_option, show_scores
from compressor.cli.console import loading, print_note, working
from compressor.cli.early_checks import check_inputs_early


@o.takes_flags(*o.EVALUATION, "--seed", *o.MACHINE)
def interpolate_command(
    a: Annotated[str, model_argument("A", f"The model at the start of the lines: {o.MODEL_NAMES}.")],
    b: Annotated[str, model_argument("B", "The model at the end, of the same shape: likewise.")],
    c: Annotated[str | None, model_argument("C", "B aligned to A: a second line, for before and after.")] = None,
    *,
    points: Annotated[int, typer.Option("--points", min=3, help="Points along each line, its ends included.")] = 11,
    output: Annotated[str, picture_option("curve.svg")] = "curve.svg",
    given: o.Given,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Draw accuracy or perplexity along the straight line between two models of one shape in weight space.

    With a third model, which is the second aligned to the first, the line to it is drawn too: before and after. A
    barrier is how much worse a line gets than its ends suggest. --seed is that of the random inputs on which each model
    must predict the same with its weights put into the first one.

    Example: compress interpolate ./teacher-a ./teacher-b ./aligned --data ./images -o curve.svg
    """
    recipe = o.to_recipe({"--teachers": (a, b) if c is None else (a, b, c), **given})
    check_inputs_early(recipe)
    with working(debug, quiet) as progress:
        with loading():
            from compressor.pipeline.landscape import measure_interpolation

        scores = measure_interpolation(recipe, output, points=points, force=force, progress=progress, remark=print_note)
    show_scores(scores, json)
