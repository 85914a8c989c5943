"""Models side by side on data."""

from __future__ import annotations

from typing import Any

from compressor.bench.accuracy import measure_accuracy
from compressor.bench.size import count_parameters
from compressor.errors import UserError
from compressor.pipeline.evaluated_models import open_evaluated_models
from compressor.pipeline.evaluation import Evaluator, short_names
from compressor.pipeline.progress import OnStage, StageReporter
from compressor.recipe import Recipe


def evaluate_models(recipe: Recipe, *, ensemble: bool = False, progress: OnStage | None = None) -> dict[str, Any]:
    """Measure the recipe's teachers, which may be any models of one task that answer in the same terms.

    Args:
        recipe: names models, data and device.
        ensemble: whether the mean of their predictions is measured too, as one more row.
        progress: told of every stage.

    Returns:
        JSON-ready: rows {name, accuracy, accuracy_error, f1, perplexity, samples, labelled, parameters, fingerprint},
        task, data, notes, seconds.  An ensemble has no fingerprint, and all the parameters.

    Raises:
        UserError: names, data or device cannot be used, the data has no labels, or one model is no ensemble.
    """
    if ensemble and len(recipe.teachers) < 2:
        raise UserError("an ensemble is of two models or more: name another, or leave out --ensemble")
    stages = StageReporter(progress)
    loaded, batches = open_evaluated_models(recipe, "evaluating", stages, device=recipe.device)
    models = [one.model for one in loaded]
    names = short_names(recipe.teachers)
    sizes = [count_parameters(model) for model in models]
    prints: list[str | None] = [one.fingerprint for one in loaded]
    with stages("evaluate", "evaluating"):
        if ensemble:
            judge = Evaluator(models, [1.0] * len(models), batches, room=0)
            scores = [*judge.teachers, judge.ensemble]
            names, sizes, prints = [*names, "ensemble"], [*sizes, sum(sizes)], [*prints, None]
        else:
            scores = measure_accuracy(models, batches)
    rows = []
    for name, found, parameters, fingerprint in zip(names, scores, sizes, prints, strict=True):
        rows.append(
            {
                "name": name,
                "accuracy": found.accuracy,
                "accuracy_error": found.accuracy_error,
                "f1": found.f1,
                "perplexity": found.perplexity,
                "samples": found.samples,
                "labelled": found.labelled,
                "parameters": parameters,
                "fingerprint": fingerprint,
            }
        )
    notes = [note for one in loaded for note in one.notes]
    return {
        "rows": rows,
        "task": batches.task.name,
        "data": batches.split.name,
        "notes": notes,
        "seconds": stages.report(),
    }
