"""`compress run`: the job of a recipe file."""

from __future__ import annotations

from typing import Annotated

import typer

from compressor.cli import options as o
from compressor.cli.completion import complete_paths
from compressor.cli.student_job import JobSettings, run_job
from compressor.errors import UserError
from compressor.recipe import build_recipe, read_recipe


@o.takes_flags("--output", "--seed", "--trust-remote-code", *o.MACHINE)
def recipe_command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe: a YAML file, such as recipe.yaml of an output folder.",
            autocompletion=complete_paths,
        ),
    ],
    given: o.Given,
    push_to_hub: o.PushToHub = None,
    with_paths: o.WithPaths = False,
    force: o.Force = False,
    resume: o.Resume = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Run a recipe file; the same recipe gives the same weights.

    Flags that are given replace values of the recipe.

    Example: compress run student/recipe.yaml --output student-again
    """
    resolved = read_recipe(recipe)
    if resolved.trust_remote_code and not given.get("--trust-remote-code"):
        raise UserError(
            f"{recipe} runs code that lies in the folders of its models (trust_remote_code): read that code, and add "
            "--trust-remote-code here too"
        )
    if changes := o.nested(given):
        values = resolved.model_dump(mode="json", exclude_unset=True)
        resolved = build_recipe({**values, **changes}, where="", names=o.FLAG_OF_FIELD)
    run_job(resolved, JobSettings(push_to_hub, with_paths, force, resume, json, quiet, debug, file=recipe))
