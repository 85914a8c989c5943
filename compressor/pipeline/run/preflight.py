"""Before a run: resolve width and data, and refuse the impossible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from compressor.data.augment import check_augmentation
from compressor.distillation.checks import check_labels_serve
from compressor.distillation.losses import LOSSES
from compressor.errors import UserError
from compressor.export.formats import check_formats
from compressor.fusion import check_residual_option
from compressor.fusion.self_test import check_recovery
from compressor.models.resolve import load_config
from compressor.models.tasks.table import check_measurable
from compressor.models.teacher import ModelSpec
from compressor.pipeline.budget import pick_width
from compressor.pipeline.rehearsal import rehearse_folder
from compressor.pipeline.run.former import check_former
from compressor.pipeline.run.state import width_of_work
from compressor.pipeline.run.streaming import check_streamed
from compressor.pipeline.run.trial import try_opset
from compressor.pipeline.stages import StageReporter
from compressor.pipeline.teachers import check_device, common_data, plan_target, read_configs
from compressor.recipe import Recipe, TargetOptions
from compressor.utils.files import check_output, work_folder


def resolve_width(
    recipe: Recipe, *, force: bool = False, resume: bool = False, stages: StageReporter | None = None
) -> tuple[Recipe, dict[str, Any] | None]:
    """Replace a recipe's target by its width, so that any machine makes the same student.

    A resumed run keeps its width.

    Returns:
        The recipe, and the report of `pick_width` or None.

    Raises:
        UserError: unusable input or output, or no width near the target.
    """
    if not recipe.target.asked:
        return recipe, None
    check_output(recipe.output, check_former if force else None)
    before = width_of_work(work_folder(recipe.output)) if resume else None
    if before is not None:
        return _at_width(recipe, before), {"asked": recipe.target.model_dump(exclude_none=True), "given": None}
    with (stages or StageReporter())("budget", "picking the width") as progress:
        picked = pick_width(
            read_configs(recipe.teachers, classes=recipe.fusion.classes),
            recipe.target,
            depth=recipe.depth,
            thread_count=recipe.bench.threads,
            on_progress=progress,
        )
    return _at_width(recipe, picked.width), picked.report


def _at_width(recipe: Recipe, width: float) -> Recipe:
    return recipe.model_copy(update={"width": width, "target": TargetOptions()})


def preflight(recipe: Recipe, *, force: bool = False) -> Recipe:
    """The recipe with its data resolved, checked before large reads.

    Raises:
        UserError: an impossible recipe.
    """
    check_output(recipe.output, check_former if force else None)
    check_device(recipe.device)
    if recipe.fusion.anchor is not None and recipe.fusion.classes != "same":
        raise UserError("teachers of unlike classes cannot be aligned to an anchor: leave out --anchor or --classes")
    configs = read_configs(recipe.teachers, classes=recipe.fusion.classes, student=recipe.student)
    if recipe.finetune.enabled:
        labels = recipe.finetune.label_weight > 0
        for name in recipe.finetune.named_losses:
            LOSSES.get(name)
        check_labels_serve(recipe.finetune, ModelSpec.of(configs[0]).task)
        spec = ModelSpec.of(configs[0])
        check_augmentation(
            recipe.finetune.augment, images=spec.reads == "image", labels=labels, placed=spec.task.placed_labels
        )
    student = _student_config(recipe, configs)
    if recipe.student is None and recipe.fusion.anchor is None:
        check_recovery(configs[0])
    if recipe.data.source is None:
        recipe = recipe.model_copy(
            update={"data": recipe.data.model_copy(update={"source": common_data(recipe.teachers)})}
        )
    rehearse_folder(student, companions_of=recipe.teachers[0], given=recipe.student)
    check_formats(recipe.export.wanted, configs[0], data=recipe.data.source is not None, opset=recipe.export.opset)
    try_opset(configs[0], recipe.export)
    if recipe.student is not None and (recipe.data.source is None or not recipe.finetune.enabled):
        raise UserError("finetuning needs data: name some with --data (data.source in a recipe)")
    return recipe


def _student_config(recipe: Recipe, configs: Sequence[PretrainedConfig]) -> PretrainedConfig:
    """The config of the student, if the recipe can have one.

    Args:
        configs: the teachers', then that of a given student.
    """
    if recipe.student is not None:
        check_measurable(configs[-1], "finetuning", recipe.student)
        return configs[-1]
    anchor = recipe.fusion.anchor
    check_streamed(recipe, configs)
    check_residual_option(recipe.fusion, recipe.width, recipe.depth, anchored=anchor is not None)
    if anchor is not None:
        return load_config(anchor)
    targets, _ = plan_target(configs, recipe.width, recipe.depth, recipe.fusion.narrowing, recipe.fusion.ratios)
    return targets[0].config
