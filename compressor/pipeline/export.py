"""Export of a model in all formats, compared with torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.export.file_kinds import every_kind
from compressor.export.formats import EXPORT_FORMATS, FLOAT, check_formats
from compressor.export.staging import EXPORT
from compressor.export.write import is_same_companion, write_companions
from compressor.models.inherited.companions import Companions, read_companions
from compressor.models.load import load_teacher
from compressor.models.resolve import load_config
from compressor.models.teacher import Teacher
from compressor.pipeline.data_splits import open_data
from compressor.pipeline.deliver import Delivery, export_and_verify
from compressor.pipeline.output.apart import model_inputs, recipe_inputs
from compressor.pipeline.output.claim import Remark, claimed
from compressor.pipeline.output.documents import REPORT, edited_documents, read_report, update_report
from compressor.pipeline.output.existing_formats import check_existing, may_exist
from compressor.pipeline.rehearsal import rehearse_export, rehearse_folder
from compressor.pipeline.stages import OnStage, StageReporter
from compressor.pipeline.teachers import common_data
from compressor.recipe import Recipe
from compressor.utils.files import check_file, disk_full_as_user_error
from compressor.utils.threads import use_threads


def export_model(
    recipe: Recipe,
    output: str | None = None,
    *,
    force: bool = False,
    progress: OnStage | None = None,
    remark: Remark | None = None,
) -> dict[str, Any]:
    """Write a model in the recipe's formats, and the measurements into the folder's report.json.

    Args:
        recipe: the model as only teacher, formats, optional data.
        output: a local model's own folder if omitted.
        remark: called with a line on a killed export's remains, and on unchanged files.

    Returns:
        JSON-ready: `export_report`, "formats" with each written `format_report`, "left" with the files that were there,
        the folder, and whether a report was updated.

    Raises:
        UserError: an unsupported model, files of another model without `force`, or a folder that overlaps with input.
        ParityError: an exact format differs from torch; nothing is written.
    """
    (name,) = recipe.teachers
    folder = _folder(name, output)
    inputs = recipe_inputs(recipe, role="model")
    if _is_own(folder, name):
        # The model's own folder may be written into, no other input.
        inputs = [entry for entry in inputs if entry not in model_inputs([name])]
    places = [folder / place for place in ("onnx", "torch", EXPORT, f"onnx/{EXPORT}")]
    with claimed(folder, inputs, more=places, remark=remark), use_threads(recipe.threads):
        return _export(recipe, folder, force, StageReporter(progress), remark)


def _export(recipe: Recipe, folder: Path, force: bool, stages: StageReporter, remark: Remark | None) -> dict[str, Any]:
    """Write the formats that are missing, or all with `force`, holding the folder."""
    (name,), options = recipe.teachers, recipe.export
    source = recipe.data.source or common_data(recipe.teachers)
    config = load_config(name)
    there = () if force else tuple(kind for kind in recipe.export.wanted if may_exist(folder, kind))
    recipe = _with_formats(recipe, [kind for kind in recipe.export.wanted if kind not in there])
    calibrated = [kind for kind in recipe.export.wanted if EXPORT_FORMATS.get(kind).calibrated(config)]
    inexact = [kind for kind in recipe.export.wanted if not EXPORT_FORMATS.get(kind).exact]
    check_formats(recipe.export.wanted, config, data=source is not None, opset=recipe.export.opset)
    _refuse_to_replace(recipe, folder, force, there)
    rehearse_export(config, recipe.export.cache)
    rehearse_folder(config, companions_of=name, given=name)
    edited = []
    if (folder / REPORT).exists():
        read_report(folder)
        edited = edited_documents(folder)
    with stages("load", f"loading {name}") as progress:
        model = load_teacher(name, progress=progress)
    companions = read_companions([model])
    with stages("compare", f"comparing {', '.join(there)} with torch") if there else nullcontext():
        existing = {kind: check_existing(kind, model, folder, options, recipe.seed) for kind in there}
    # Next to files of this model its config and preprocessor stay too.
    if not _any_onnx(there) and _any_onnx(recipe.export.wanted):
        _refuse_to_replace_companions(model, companions, folder / "onnx", force)
    data = None
    # Built-in data is read only for what needs it.
    if recipe.export.wanted and (recipe.data.source or (source is not None and (calibrated or inexact))):
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})})
        with stages("data", f"reading {source}"), disk_full_as_user_error("to the cache of datasets"):
            data = open_data(recipe, model.processor, model.spec)
    with disk_full_as_user_error(f"to {folder}"):
        try:
            delivery = export_and_verify(
                recipe.export, model.model, folder, stages, companions=companions, data=data, seed=recipe.seed,
                left=there,
            )  # fmt: skip
        except PermissionError as error:
            raise UserError(
                f"cannot write to {folder}: {error.strerror}; choose another folder with --output"
            ) from None
        updated = bool(delivery.formats) and update_report(folder, _report_changes(folder, delivery, there), edited)
    if remark:
        for note in (*companions.notes, *(data.notes if data else ())):
            remark(f"note: {note}")
        for path in edited:
            remark(f"note: {path} is not as a run wrote it, so it stays as it is")
    return {
        **(delivery.onnx or {}),
        "formats": delivery.formats,
        "left": {kind: asdict(left) for kind, left in existing.items()},
        "folder": str(folder),
        "report_updated": updated,
        "seconds": stages.report(),
    }


def _any_onnx(names: Sequence[str]) -> bool:
    return any(EXPORT_FORMATS.get(name).folder == "onnx" for name in names)


def _with_formats(recipe: Recipe, names: Sequence[str]) -> Recipe:
    return recipe.model_copy(update={"export": recipe.export.model_copy(update={"formats": tuple(names)})})


def _report_changes(folder: Path, delivery: Delivery, left: Sequence[str] = ()) -> dict[str, Any]:
    """Changed entries of the report; float32 files replace all formats but those `left`, others add theirs."""
    before = read_report(folder).get("formats", {}) if (folder / REPORT).exists() else {}
    if delivery.onnx is not None:
        kept = {name: before[name] for name in left if name in before}
        return {"onnx": delivery.onnx, "formats": {**delivery.formats, **kept}}
    return {"formats": {**before, **delivery.formats}}


def _refuse_to_replace(recipe: Recipe, folder: Path, force: bool, left: Sequence[str]) -> None:
    """Refuse to replace files without `force`; always special files and files that would only be removed."""
    for name in recipe.export.wanted:
        for path in _files(folder, name):
            check_file(path, force, parents=True)
    if FLOAT not in recipe.export.wanted:
        return
    listed = _listed(folder)
    for name in (name for name in EXPORT_FORMATS.names() if name not in (*recipe.export.wanted, *left)):
        for path in _files(folder, name):
            if os.path.lexists(path) and not (force and path.relative_to(folder).as_posix() in listed):
                remedy = "or say --force" if not force else f"or remove it by hand: no {REPORT} says that we wrote it"
                raise UserError(
                    f"{path} goes when {FLOAT} is written, since it may be of another model: add {name} to --formats, "
                    f"{remedy}"
                )


def _files(folder: Path, name: str) -> list[Path]:
    """Possible paths of a format's files and weights."""
    paths = [EXPORT_FORMATS.get(name).path(folder, kind) for kind in every_kind()]
    return [part for path in paths for part in (path, path.with_name(f"{path.name}.data"))]


def _listed(folder: Path) -> set[str]:
    """Files named in a folder's report, and their weights."""
    if not (folder / REPORT).exists():
        return set()
    formats = read_report(folder).get("formats", {})
    names = [name for about in formats.values() if isinstance(about, dict) for name in about.get("files", {})]
    return {part for name in names for part in (name, f"{name}.data")}


def _refuse_to_replace_companions(model: Teacher, companions: Companions, folder: Path, force: bool) -> None:
    """Refuse to replace another model's config or preprocessor in `onnx`."""
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        write_companions(Path(scratch), model.model, companions)
        for new in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            path = folder / new.relative_to(scratch)
            if os.path.lexists(path) and (path.is_symlink() or not path.is_file() or not is_same_companion(new, path)):
                check_file(path, force)


def _is_own(folder: Path, name: str) -> bool:
    """Whether it is a local model's folder."""
    model = Path(name).expanduser()
    return model.is_dir() and folder.exists() and folder.samefile(model)


def _folder(name: str, output: str | None) -> Path:
    if output is not None:
        return Path(output).expanduser()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{name} is no local folder: say where to write the files with --output")
    return folder
