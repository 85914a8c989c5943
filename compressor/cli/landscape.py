"""The commands that draw scores in weight space: landscape, interpolate."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from compressor.cli import options as o
from compressor.cli.console import loading, print_json, print_note, print_results, working
from compressor.cli.flags import to_recipe

_NAME = "a local folder, a built-in name (vit-a, vit-b) or a Hub id"


def _model(metavar: str, help: str) -> Any:
    return typer.Argument(metavar=metavar, help=help)


def _picture(default: str) -> Any:
    return typer.Option(
        "--output",
        "-o",
        help="File to draw into, .svg or .png; the numbers are written beside it, as .json. "
        # Escaped: brackets are markup in a help text.
        f"[dim]\\[default: {default}][/dim]",
        show_default=False,
    )


@o.takes_flags(*o.EVALUATION, "--seed", "--device")
def landscape_command(
    anchor: Annotated[str, _model("ANCHOR", f"The model at the origin: {_NAME}.")],
    fused: Annotated[str, _model("FUSED", "A model of the same shape, such as the one-shot fusion: likewise.")],
    vanilla: Annotated[str, _model("VANILLA", "A third one, such as the plain average of the weights: likewise.")],
    *,
    points: Annotated[int, typer.Option("--points", min=2, help="Points along each side of the map.")] = 15,
    margin: Annotated[
        float,
        typer.Option("--margin", min=0, max=10, help="Margin around the models, as a share of their longer side."),
    ] = 0.3,
    output: Annotated[str, _picture("landscape.svg")] = "landscape.svg",
    given: o.Given,
    force: o.Force = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Draw accuracy or perplexity over the plane through three models of one shape in weight space.

    Every point of the map is a model, mixed from the weights of the three and measured on the data: 225 of them for 15
    points a side. --seed is that of the random inputs on which each model must answer the same with its weights put
    into the first one.

    Example: compress landscape ./anchor ./fused ./vanilla --data ./images --eval-samples 500 -o landscape.svg
    """
    recipe = to_recipe({"--teachers": (anchor, fused, vanilla), **given})
    with working(debug) as progress:
        with loading():
            from compressor.pipeline import landscape as job

        found = job.measure_landscape(
            recipe, output, points=points, margin=margin, force=force, progress=progress, remark=print_note
        )
    _show(found, json)


@o.takes_flags(*o.EVALUATION, "--seed", "--device")
def interpolate_command(
    a: Annotated[str, _model("A", f"The model that the lines begin at: {_NAME}.")],
    b: Annotated[str, _model("B", "The model, of the same shape, that the line leads to: likewise.")],
    c: Annotated[str | None, _model("C", "B aligned to A: a second line, for before and after.")] = None,
    *,
    points: Annotated[int, typer.Option("--points", min=3, help="Points along each line, its ends included.")] = 11,
    output: Annotated[str, _picture("curve.svg")] = "curve.svg",
    given: o.Given,
    force: o.Force = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Draw accuracy or perplexity along the straight line between two models of one shape in weight space.

    With a third model, which is the second aligned to the first, the line to it is drawn too: before and after. A
    barrier is how much worse a line gets than its ends suggest. --seed is that of the random inputs on which each model
    must answer the same with its weights put into the first one.

    Example: compress interpolate ./teacher-a ./teacher-b ./aligned --data ./images -o curve.svg
    """
    recipe = to_recipe({"--teachers": (a, b) if c is None else (a, b, c), **given})
    with working(debug) as progress:
        with loading():
            from compressor.pipeline import landscape as job

        found = job.measure_interpolation(
            recipe, output, points=points, force=force, progress=progress, remark=print_note
        )
    _show(found, json)


def _show(found: dict[str, Any], json: bool) -> None:
    for note in found["notes"]:
        print_note(f"note: {note}")
    if json:
        print_json(found)
        return
    from compressor.report.landscape_figures import describe_landscape

    print_results(*describe_landscape(found))
