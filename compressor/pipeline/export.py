"""A model in the formats that it is delivered in, proved against torch, in its own folder or in another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.export.files import every_kind
from compressor.export.formats import EXPORT_FORMATS, FLOAT, check_formats
from compressor.models.load import load_teacher
from compressor.models.resolve import load_config
from compressor.pipeline.data_splits import open_data
from compressor.pipeline.deliver import Delivery, export_and_verify
from compressor.pipeline.output import REPORT, read_report, update_report
from compressor.pipeline.progress import OnStage, StageReporter
from compressor.pipeline.teachers import common_data
from compressor.recipe import Recipe
from compressor.utils.disk import disk_full_as_user_error


def export_model(
    recipe: Recipe, output: str | None = None, *, force: bool = False, progress: OnStage | None = None
) -> dict[str, Any]:
    """Write a model in the recipe's formats, and note what they are worth in the folder's report.json.

    Args:
        recipe: names the model as its only teacher, the formats, and data to calibrate and evaluate on, if any.
        output: the folder to write into; a local model's own folder if omitted.
        force: replace files that are there.
        progress: told of every stage.

    Returns:
        JSON-ready: what `export_report` says of the float32 ONNX files if they were asked for, "formats" with
        `format_report` of each, the folder, and whether a report was updated.

    Raises:
        UserError: the model cannot be loaded or exported, or files are there already.
        ParityError: a format that is to be exact disagrees with torch; nothing is written.
    """
    stages = StageReporter(progress)
    (name,) = recipe.teachers
    folder = _folder(name, output)
    source = recipe.data.source or common_data(recipe.teachers)
    calibrated = [one for one in recipe.export.wanted if EXPORT_FORMATS.get(one).calibrated(load_config(name))]
    inexact = [one for one in recipe.export.wanted if not EXPORT_FORMATS.get(one).exact]
    check_formats(recipe.export.wanted, load_config(name), data=source is not None)
    _refuse_to_replace(recipe, folder, force)
    with stages("load", f"loading {name}") as tell:
        model = load_teacher(name, progress=tell)
    data = None
    # Built-in data is read only for what needs it.
    if recipe.data.source is not None or (source is not None and (calibrated or inexact)):
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})})
        with stages("data", f"reading {source}"), disk_full_as_user_error("to the cache of datasets"):
            data = open_data(recipe, model.processor, model.config)
    with disk_full_as_user_error(f"to {folder}"):
        try:
            found = export_and_verify(
                recipe.export, model.model, folder, stages, processor=model.processor, data=data, seed=recipe.seed
            )
        except PermissionError as error:
            raise UserError(
                f"cannot write to {folder}: {error.strerror}; choose another folder with --output"
            ) from None
        updated = update_report(folder, _noted(folder, found))
    return {
        **(found.onnx or {}),
        "formats": found.formats,
        "folder": str(folder),
        "report_updated": updated,
        "seconds": stages.report(),
    }


def _noted(folder: Path, found: Delivery) -> dict[str, Any]:
    """What changes in the report of a folder, if it has one: formats that were there before stay unless they went."""
    if found.onnx is not None:
        return {"onnx": found.onnx, "formats": found.formats}
    before = read_report(folder).get("formats", {}) if (folder / REPORT).exists() else {}
    return {"formats": {**before, **found.formats}}


def _refuse_to_replace(recipe: Recipe, folder: Path, force: bool) -> None:
    for one in recipe.export.wanted:
        made = EXPORT_FORMATS.get(one)
        for path in (made.path(folder, kind) for kind in every_kind()):
            if path.exists() and not force:
                raise UserError(f"{path} exists already: replace it with --force")
    if FLOAT not in recipe.export.wanted or force:
        return
    for one in (name for name in EXPORT_FORMATS.names() if name not in recipe.export.wanted):
        for path in (EXPORT_FORMATS.get(one).path(folder, kind) for kind in every_kind()):
            if path.exists():
                raise UserError(
                    f"{path} goes when {FLOAT} is written, since it may be of another model: add {one} to --formats, "
                    f"or say --force"
                )


def _folder(name: str, output: str | None) -> Path:
    if output is not None:
        return Path(output).expanduser()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{name} is no local folder: say where to write the files with --output")
    return folder
