"""`compress evaluate`: scores of models on data."""

from __future__ import annotations

from typing import Annotated

import typer

from compressor.cli import options as o
from compressor.cli.console import loading, print_json, print_notes, print_results, working
from compressor.cli.early_checks import check_inputs_early
from compressor.utils.consent import code_trusted


@o.takes_flags("--revision", "--trust-remote-code", *o.EVALUATION, "--classes", *o.MACHINE)
def evaluate_command(
    models: o.Models,
    *,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also measure the mean of the models' predictions, as the last row.")
    ] = False,
    given: o.Given,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Measure models on data: accuracy and F1 of classifiers and taggers, perplexity of language models.

    The models must read the same inputs and predict the same classes or tokens. Built-in teachers bring their own
    data. The prediction of an ensemble is the mean of the models' probabilities.

    Example: compress evaluate student ./teacher-a --data ./images --eval-samples all
    """
    recipe = o.to_recipe({"--teachers": tuple(models), **given})
    check_inputs_early(recipe)
    with working(debug, quiet) as progress, code_trusted(recipe.trust_remote_code):
        with loading():
            from compressor.pipeline.evaluate import evaluate_models

        scores = evaluate_models(recipe, ensemble=ensemble, progress=progress)
    print_notes(scores["notes"])
    if json:
        print_json(scores)
        return
    from compressor.report.describe import describe_data
    from compressor.report.tables import score_table

    print_results(score_table(scores["rows"]), describe_data(scores))
