"""Latency of all models of a run's table."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.export.file_kinds import files_of
from compressor.export.formats import FLOAT
from compressor.export.onnx import write_onnx
from compressor.export.parity_cases import MODEL
from compressor.pipeline.scores.evaluation import EvaluatedModel
from compressor.pipeline.stages import StageReporter
from compressor.pipeline.timing import TimedModel, Timing, shape_key, time_contenders
from compressor.recipe import ExportOptions, Recipe
from compressor.utils.devices import on_device
from compressor.utils.files import disk_full_as_user_error

#: Calls before measuring: fewer than in `compress bench`.
WARMUPS = 5
_PLAIN = ExportOptions()


def export_to_time(model: PreTrainedModel, folder: Path, options: ExportOptions = _PLAIN) -> Path:
    """Write an ONNX file of the whole model that is only timed, without a check; its path.

    Raises:
        UnsupportedError: torch cannot export the model, or it has no single file.
    """
    if all(kind.name != MODEL for kind in files_of(model, options.cache)):
        raise UnsupportedError(f"{type(model).__name__} has no ONNX file of the whole model")
    report = write_onnx(model, folder, cache=options.cache, tolerance=1.0, batch_sizes=(1,), opset=options.opset)
    return report.path


def time_models(
    recipe: Recipe,
    models: Sequence[EvaluatedModel],
    folder: Path | None,
    stages: StageReporter,
    formats: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Timing], list[str]]:
    """Latency of all models of the table, unless the recipe leaves it out.

    Args:
        models: the last is the written student.
        folder: of its ONNX files, or None.
        formats: its other formats as in report.json; those with one ONNX file are timed too.

    Returns:
        {name, or "student (format)": timing}, and a line if an export failed: then torch only.
    """
    if not recipe.bench.latency:
        return {}, []
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        files: dict[str, Path] = {}
        notes: list[str] = []
        if folder is not None:
            with stages("export", "exporting the teachers to time them"), disk_full_as_user_error(f"to {scratch}"):
                try:
                    files = _files_to_time(models, folder, Path(scratch), recipe.export)
                except UnsupportedError as error:
                    notes = [f"latency was measured in torch only: {error}"]
        variants = _single_files(folder, formats or {}) if folder is not None and files else {}
        return _time(recipe, models, files, variants, stages), notes


def _files_to_time(
    models: Sequence[EvaluatedModel], folder: Path, scratch: Path, options: ExportOptions
) -> dict[str, Path]:
    """{shape: ONNX file} of all models.

    Raises:
        UnsupportedError: an export fails.
    """
    student = folder / "onnx" / MODEL
    files = {shape_key(models[-1].models): student} if student.is_file() else {}
    for model in (model for row in models for model in row.models):
        if (key := shape_key([model])) not in files:
            files[key] = export_to_time(model, scratch / str(len(files)), options)
    return files


def _single_files(folder: Path, formats: Mapping[str, Any]) -> dict[str, Path]:
    """{format: its file} of formats, other than float32, with one ONNX file of the whole model."""
    return {
        name: folder / next(iter(exported["files"]))
        for name, exported in formats.items()
        if name != FLOAT and len(exported["files"]) == 1 and next(iter(exported["files"])).endswith(".onnx")
    }


def _time(
    recipe: Recipe,
    models: Sequence[EvaluatedModel],
    files: Mapping[str, Path],
    variants: Mapping[str, Path],
    stages: StageReporter,
) -> dict[str, Timing]:
    contenders = [
        TimedModel(row.name, row.models, tuple(files[shape_key([model])] for model in row.models) if files else None)
        for row in models
    ]
    student = models[-1]
    contenders += [TimedModel(f"{student.name} ({name})", student.models, (path,)) for name, path in variants.items()]
    with stages("latency", "timing") as progress:
        progress(None, f"timing batches of {recipe.bench.batch_size} in turns")
        with on_device([model for row in models for model in row.models], recipe.device):
            return time_contenders(
                contenders,
                batch_size=recipe.bench.batch_size,
                seconds=recipe.bench.seconds,
                thread_count=recipe.bench.threads,
                warmups=WARMUPS,
            )
