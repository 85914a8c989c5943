"""`compress landscape`: scores over the plane through three models in weight space."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from compressor.cli import options as o
from compressor.cli.completion import complete_models
from compressor.cli.console import loading, print_json, print_note, print_notes, print_results, working
from compressor.cli.early_checks import check_inputs_early


def model_argument(metavar: str, help: str) -> Any:
    """A model in the place that `metavar` names."""
    return typer.Argument(metavar=metavar, help=help, autocompletion=complete_models)


def picture_option(default: str) -> Any:
    """--output of a command that draws."""
    return typer.Option(
        "--output",
        "-o",
        help="Picture to write, .svg or .png; its numbers are written to a .json file of the same name. "
        # Escaped: brackets are markup in a help text.
        f"[dim]\\[default: {default}][/dim]",
        show_default=False,
    )


def show_scores(scores: dict[str, Any], json: bool) -> None:
    """Print notes, and the scores as JSON or in words."""
    print_notes(scores["notes"])
    if json:
        print_json(scores)
        return
    from compressor.report.landscape_figures import describe_landscape

    print_results(*describe_landscape(scores))


@o.takes_flags(*o.EVALUATION, "--seed", *o.MACHINE)
def landscape_command(
    anchor: Annotated[str, model_argument("ANCHOR", f"The model at the origin: {o.MODEL_NAMES}.")],
    fused: Annotated[str, model_argument("FUSED", "A model of the same shape, such as the one-shot fusion: likewise.")],
    vanilla: Annotated[str, model_argument("VANILLA", "A third one, such as the plain average: likewise.")],
    *,
    points: Annotated[int, typer.Option("--points", min=2, help="Points along each side of the map.")] = 15,
    margin: Annotated[
        float,
        typer.Option("--margin", min=0, max=10, help="Margin around the models, as a share of their longer side."),
    ] = 0.3,
    output: Annotated[str, picture_option("landscape.svg")] = "landscape.svg",
    given: o.Given,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Draw accuracy or perplexity over the plane through three models of one shape in weight space.

    Every point of the map is a model, mixed from the weights of the three and measured on the data: 225 of them for 15
    points a side. --seed is that of the random inputs on which each model must predict the same with its weights put
    into the first one.

    Example: compress landscape ./anchor ./fused ./vanilla --data ./images --eval-samples 500 -o landscape.svg
    """
    recipe = o.to_recipe({"--teachers": (anchor, fused, vanilla), **given})
    check_inputs_early(recipe)
    with working(debug, quiet) as progress:
        with loading():
            from compressor.pipeline.landscape import measure_landscape

        scores = measure_landscape(
            recipe, output, points=points, margin=margin, force=force, progress=progress, remark=print_note
        )
    show_scores(scores, json)
