"""Models that are to be measured, and the samples to measure them on."""

from __future__ import annotations

from compressor.data.batches import Batches
from compressor.errors import UserError
from compressor.models.compatibility import check_compatible
from compressor.models.load import load_teacher
from compressor.models.tasks import check_measurable
from compressor.models.teacher import Teacher
from compressor.pipeline.data_splits import open_evaluation
from compressor.pipeline.progress import StageReporter
from compressor.pipeline.teachers import check_device, common_data, read_configs
from compressor.recipe import Recipe
from compressor.utils.disk import disk_full_as_user_error


def open_evaluated_models(
    recipe: Recipe, doing: str, stages: StageReporter, *, device: str
) -> tuple[list[Teacher], Batches]:
    """Load the recipe's teachers, which may be any models of one task, and open its evaluation samples.

    Args:
        recipe: names models, data and the device that is to be there.
        doing: what is to be done, for messages, such as "evaluating".
        stages: told of the loading and the reading.
        device: where the models are put.

    Raises:
        UserError: names, data or device cannot be used, or the data has no labels.
    """
    check_device(recipe.device)
    with stages("load", "loading") as tell:
        for name, config in zip(recipe.teachers, read_configs(recipe.teachers), strict=True):
            task = check_measurable(config, doing, name)
        source = recipe.data.source or common_data(recipe.teachers)
        if source is None:
            raise UserError(f"{doing} needs {'labelled data' if task.columns else 'data'}: name some with --data")
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})})
        models = [load_teacher(name, device=device, progress=tell) for name in recipe.teachers]
        check_compatible(models)
    with stages("data", f"reading {source}"), disk_full_as_user_error("to the cache of datasets"):
        batches = open_evaluation(recipe, models[0].processor, models[0].config)
    if not batches.labelled:
        raise UserError(
            f"{batches.split.name} has no labels, which {doing} needs: name their column with --label-column"
        )
    return models, batches
