"""Scores of models on data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compressor.bench.accuracy import measure_accuracy
from compressor.bench.size import count_parameters
from compressor.data.batches import Batches
from compressor.data.tensor_batches import TensorBatches
from compressor.errors import UserError
from compressor.models.tasks.table import check_measurable
from compressor.models.teacher import Teacher
from compressor.pipeline.data_splits import open_evaluation
from compressor.pipeline.scores.evaluation import Evaluator, score_columns, short_names
from compressor.pipeline.stages import OnStage, StageReporter
from compressor.pipeline.teachers import check_device, common_data, load_ensemble, read_configs
from compressor.recipe import Recipe
from compressor.utils.files import disk_full_as_user_error
from compressor.utils.threads import use_threads


def evaluate_models(recipe: Recipe, *, ensemble: bool = False, progress: OnStage | None = None) -> dict[str, Any]:
    """Score the recipe's teachers: any models of one task with the same classes or vocabulary.

    Args:
        ensemble: add a row for their mean prediction.

    Returns:
        JSON-ready: rows {name, scores by metric, standard errors, samples, labelled, parameters, fingerprint},
        task, data, notes, seconds.  An ensemble has all parameters and no fingerprint.

    Raises:
        UserError: unusable names, data or device, no labels, or an ensemble of one.
    """
    if ensemble and len(recipe.teachers) < 2:
        raise UserError("an ensemble is of two models or more: name another, or leave out --ensemble")
    with use_threads(recipe.threads):
        return _evaluate(recipe, ensemble, StageReporter(progress))


def _evaluate(recipe: Recipe, ensemble: bool, stages: StageReporter) -> dict[str, Any]:
    teachers, batches = open_evaluated_models(recipe, "evaluating", stages, device=recipe.device)
    return score_models(teachers, short_names(recipe.teachers), batches, stages, ensemble=ensemble)


def score_models(
    teachers: Sequence[Teacher],
    names: Sequence[str],
    batches: Batches | TensorBatches,
    stages: StageReporter,
    *,
    ensemble: bool = False,
) -> dict[str, Any]:
    """Score loaded models on labelled batches; see `evaluate_models`."""
    models = [teacher.model for teacher in teachers]
    names = list(names)
    sizes = [count_parameters(model) for model in models]
    fingerprints: list[str | None] = [teacher.fingerprint for teacher in teachers]
    with stages("evaluate", "evaluating"):
        if ensemble:
            evaluator = Evaluator(models, [1.0] * len(models), batches, room=0)
            scores = [*evaluator.teachers, evaluator.ensemble]
            names, sizes, fingerprints = (
                [*names, f"mean of the {len(names)} above"],
                [*sizes, sum(sizes)],
                [*fingerprints, None],
            )
        else:
            scores = measure_accuracy(models, batches, speaks=True)
    rows = []
    for name, score, parameters, fingerprint in zip(names, scores, sizes, fingerprints, strict=True):
        rows.append(
            {
                "name": name,
                **score_columns(score),
                "samples": score.samples,
                "labelled": score.labelled,
                "parameters": parameters,
                "fingerprint": fingerprint,
            }
        )
    notes = [note for teacher in teachers for note in teacher.notes]
    notes += batches.split.notes
    return {
        "rows": rows,
        "task": batches.task.name,
        "data": batches.split.name,
        "notes": notes,
        "seconds": stages.report(),
    }


def open_evaluated_models(
    recipe: Recipe, doing: str, stages: StageReporter, *, device: str
) -> tuple[list[Teacher], Batches]:
    """Load the recipe's teachers, any models of one task, and open its samples.

    Args:
        doing: for messages, such as "evaluating".

    Raises:
        UserError: unusable names, data or device, or no labels.
    """
    check_device(recipe.device)
    with stages("load", "loading") as progress:
        configs = read_configs(recipe.teachers, classes=recipe.fusion.classes)
        for name, config in zip(recipe.teachers, configs, strict=True):
            task = check_measurable(config, doing, name)
        source = recipe.data.source or common_data(recipe.teachers)
        if source is None:
            raise UserError(f"{doing} needs {'labelled data' if task.columns else 'data'}: name some with --data")
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})})
        models = load_ensemble(recipe.teachers, progress, recipe.fusion.classes, device=device)
    with stages("data", f"reading {source}"), disk_full_as_user_error("to the cache of datasets"):
        batches = open_evaluation(recipe, models[0].processor, models[0].spec)
    if not batches.labelled:
        raise UserError(
            f"{batches.split.name} has no labels, which {doing} needs: name their column with --label-column"
        )
    return models, batches
