"""A model's ONNX files, proved against torch, in the model's own folder or in another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.export.layout import NAMES
from compressor.export.onnx import export_onnx
from compressor.models.load import load_teacher
from compressor.pipeline.output import update_report
from compressor.pipeline.prove import export_report
from compressor.pipeline.space import told_when_full
from compressor.pipeline.stages import Progress, Stages


def export(
    name: str,
    output: str | None = None,
    *,
    cache: bool = True,
    tolerance: float,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a model's files in onnx/, and note their largest differences from torch in the folder's report.json.

    Args:
        name: a folder, a built-in teacher or a Hub id.
        output: the folder to write into; a local model's own folder if omitted.
        cache: whether a generating model gets files with past too.
        tolerance: largest allowed difference relative to the largest value of an output.
        seed: of the random inputs that are compared.
        force: replace files that are there.
        progress: told of every stage.

    Returns:
        JSON-ready: the files, the largest differences, and whether a report was updated.

    Raises:
        UserError: the model cannot be loaded or exported, or files are there already.
        ParityError: a file disagrees with torch; nothing is written.
    """
    stages = Stages(progress)
    folder = _folder(name, output)
    there = next((path for name in NAMES if (path := folder / "onnx" / name).exists()), None)
    if there is not None and not force:
        raise UserError(f"{there} exists already: replace it with --force")
    with stages("load", f"loading {name}") as tell:
        model = load_teacher(name, progress=tell).model
    with stages("export", "exporting to ONNX and checking it against torch"), told_when_full(f"to {folder}"):
        try:
            report = export_report(export_onnx(model, folder, cache=cache, tolerance=tolerance, seed=seed))
        except PermissionError as error:
            raise UserError(
                f"cannot write to {folder}: {error.strerror}; choose another folder with --output"
            ) from None
        updated = update_report(folder, {"onnx": report})
    return {**report, "folder": str(folder), "report_updated": updated, "seconds": stages.report()}


def _folder(name: str, output: str | None) -> Path:
    if output is not None:
        return Path(output).expanduser()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{name} is no local folder: say where to write the ONNX files with --output")
    return folder
