"""Scores over widths: pilots, fused from few samples and not finetuned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressor.bench.metrics import METRICS
from compressor.bench.rows import to_json
from compressor.errors import UserError
from compressor.fusion import fuse_models
from compressor.fusion.classes import fit_lacking_classes
from compressor.fusion.mixture import mixture_of
from compressor.models.tasks.table import check_measurable
from compressor.pipeline.data_splits import open_data
from compressor.pipeline.output.claim import Remark, claimed
from compressor.pipeline.output.documents import PAGE, REPORT, edited_documents, read_report, update_report
from compressor.pipeline.scores.evaluation import EvaluatedModel, Evaluator, describe_score, evaluated_teachers
from compressor.pipeline.stages import OnStage, StageReporter
from compressor.pipeline.teachers import (
    check_device,
    common_data,
    depth_option,
    load_ensemble,
    plan_target,
    read_configs,
)
from compressor.recipe import Recipe
from compressor.utils.devices import on_device
from compressor.utils.files import disk_full_as_user_error

#: Most widths of a curve.
MOST_WIDTHS = 8


def width_curve(
    recipe: Recipe,
    widths: Sequence[float],
    *,
    folder: str | Path | None = None,
    progress: OnStage | None = None,
    remark: Remark | None = None,
) -> dict[str, Any]:
    """Fuse and score a student of each width.

    Args:
        recipe: its width is unused.
        widths: those that give the same student count once.
        folder: a former output, whose report and page get the curve; nothing else is written.
        remark: called with a line on a killed run's remains.

    Returns:
        JSON-ready: "data", "samples", "labelled", "calibration", and "rows" of teachers, ensemble and widths, each with
        name, width (None for teachers), metrics of `compressor.bench.metrics`, kl, parameters, macs.

    Raises:
        UserError: no data, too many widths, one that cannot be, or a folder that is no output.
    """
    recipe, widths = _checked(recipe, widths)
    if folder is None:
        return _measure(recipe, widths, StageReporter(progress))
    read_report(folder)
    with claimed(folder, (), remark=remark):
        curve = _measure(recipe, widths, StageReporter(progress))
        place = Path(folder).expanduser()
        edited = edited_documents(place)
        update_report(place, {"curve": curve}, edited)
        if remark and place / PAGE in edited:
            remark(
                f"note: {folder}/{PAGE} was edited, or is of another version, and stays; the curve is in {REPORT}; "
                f"`compress report {folder} --html` writes the page anew"
            )
    return curve


def _checked(recipe: Recipe, widths: Sequence[float]) -> tuple[Recipe, list[float]]:
    """The recipe with its data, and a width for each different student, rising."""
    if not 0 < len(widths) <= MOST_WIDTHS:
        raise UserError(f"--curve takes 1 to {MOST_WIDTHS} widths, not {len(widths)}")
    if bad := [width for width in widths if not 0 < width <= 1]:
        raise UserError(f"--curve: a width is a share above 0 and at most 1, not {bad[0]:g}")
    configs = read_configs(recipe.teachers, classes=recipe.fusion.classes)
    check_measurable(configs[0], "a curve", recipe.teachers[0])
    check_device(recipe.device)
    source = recipe.data.source or common_data(recipe.teachers)
    if source is None:
        raise UserError("--curve fuses pilots and scores them, which needs samples: add --data")
    fusion = recipe.fusion
    students = {plan_target(configs, width, recipe.depth, fusion.narrowing, fusion.ratios)[0][0].given_width: width
                for width in sorted(widths, reverse=True)}  # fmt: skip
    data = recipe.data.model_copy(update={"source": source})
    return recipe.model_copy(update={"data": data}), sorted(students.values())


def _measure(recipe: Recipe, widths: Sequence[float], stages: StageReporter) -> dict[str, Any]:
    with stages("load", "loading the teachers") as on_progress:
        teachers = load_ensemble(recipe.teachers, on_progress, recipe.fusion.classes)
    with stages("data", f"reading {recipe.data.source}"), disk_full_as_user_error("to the cache of datasets"):
        data = open_data(recipe, teachers[0].processor, teachers[0].spec)
    assert data.evaluation is not None
    models = [teacher.model for teacher in teachers]
    fit_lacking_classes(teachers, data.labelled)
    mixture = mixture_of(models, data.labelled or None, recipe.fusion)
    with stages("evaluate", "evaluating the teachers"), on_device(models, recipe.device):
        evaluator = Evaluator(models, mixture.weights, data.evaluation, mixing=mixture.mixing)
    rows = [_row(model, None) for model in evaluated_teachers(teachers, evaluator)]
    for index, width in enumerate(widths):
        with stages("fuse", "fusing pilots") as on_progress:
            on_progress(index / len(widths), f"fusing a pilot of width {width:g}")
            result = fuse_models(
                [(teacher.name, teacher.model) for teacher in teachers], width, data.calibration, recipe.fusion,
                holdout=recipe.calibration.holdout, seed=recipe.seed, mixture=mixture, **depth_option(recipe.depth),
            )  # fmt: skip
            with on_device([*models, result.model], recipe.device):
                score = evaluator.score(result.model)
            on_progress((index + 1) / len(widths), f"width {width:g}: {describe_score(score)}")
        given = result.target.given_width
        rows.append(_row(EvaluatedModel(f"width {given:.3g}", (result.model,), 0, score), given))
    report = evaluator.report()
    kept = {key: report[key] for key in ("data", "samples", "labelled")}
    calibration = sum(len(next(iter(batch.values()))) for batch in data.calibration)
    return {**kept, "calibration": calibration, "rows": rows}


def _row(model: EvaluatedModel, width: float | None) -> dict[str, Any]:
    [row] = to_json([model.row(None)])
    keys = ("name", *METRICS, "kl", "parameters", "macs")
    return {"width": width, **{key: row.get(key) for key in keys}}
