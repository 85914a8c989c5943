"""The student's ONNX files, and the latency of every subject in torch and in ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.export.layout import files_of
from compressor.export.onnx import ExportReport, FileReport, export_onnx
from compressor.export.proofs import MODEL
from compressor.pipeline.measure import Contender, Timing, shape_key, time_contenders
from compressor.pipeline.space import told_when_full
from compressor.pipeline.stages import Stages
from compressor.pipeline.table import Subject
from compressor.recipe import Recipe

#: Fewer than `compress bench` takes; the report states them.
WARMUPS = 5


def prove(recipe: Recipe, model: PreTrainedModel, folder: Path, stages: Stages) -> ExportReport | None:
    """Write and check the model's files in `folder`/onnx, if the recipe wants them.

    Args:
        recipe: of the run.
        model: the student.
        folder: where it was written.
        stages: the run's.

    Raises:
        ParityError: a file disagrees with torch by more than the tolerance.
        UnsupportedError: torch cannot export the model.
    """
    if not recipe.export.onnx:
        return None
    with stages("export", "exporting to ONNX and checking it against torch"):
        options = recipe.export
        return export_onnx(model, folder, cache=options.cache, tolerance=options.tolerance, seed=recipe.seed)


def export_to_time(model: PreTrainedModel, folder: Path) -> Path:
    """Write a file of the whole model that is only timed: whether it agrees with torch is not asked.

    Returns:
        Its path below `folder`.

    Raises:
        UnsupportedError: torch cannot export the model, or it has no file of its whole.
    """
    if all(kind.name != MODEL for kind in files_of(model, cache=False)):
        raise UnsupportedError(f"{type(model).__name__} has no ONNX file of the whole model")
    return export_onnx(model, folder, cache=False, tolerance=1.0, batch_sizes=(1,)).path


def export_report(report: ExportReport) -> dict[str, Any]:
    """What report.json says of an export: of all files together, then of each by its name."""
    return {
        "file": f"onnx/{report.path.name}",
        "bytes": report.bytes,
        "opset": report.opset,
        "tolerance": report.parity.tolerance,
        "largest_difference": report.parity.max_abs,
        "largest_relative_difference": report.parity.max_rel,
        "batch_sizes": sorted({case.batch for case in report.parity.cases}),
        "files": {f"onnx/{file.path.name}": _about(file) for file in report.files},
    }


def _about(file: FileReport) -> dict[str, Any]:
    return {
        "bytes": file.bytes,
        "inputs": list(file.inputs),
        "outputs": list(file.outputs),
        "largest_difference": file.parity.max_abs,
        "largest_relative_difference": file.parity.max_rel,
        "cases": {str(index): asdict(case) for index, case in enumerate(file.parity.cases)},
    }


def time_subjects(
    recipe: Recipe, subjects: Sequence[Subject], folder: Path | None, stages: Stages, notes: list[str]
) -> dict[str, Timing]:
    """Latency of every subject, if the recipe wants it.

    Args:
        recipe: of the run.
        subjects: of the table; the last one is the student that was written.
        folder: where the student's ONNX files are; None leaves ONNX Runtime out.
        stages: the run's.
        notes: told why ONNX Runtime is left out for another reason.
    """
    if not recipe.bench.latency:
        return {}
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        files: dict[str, Path] = {}
        if folder is not None:
            with stages("export", "exporting the teachers to time them"), told_when_full(f"to {scratch}"):
                files = _files_to_time(subjects, folder, Path(scratch), notes)
        with stages("latency", "timing") as tell:
            tell(None, f"timing batches of {recipe.bench.batch_size} in turns")
            for subject in subjects:
                for model in subject.models:
                    model.to(recipe.device)  # type: ignore[arg-type]
            contenders = [
                Contender(
                    subject.name,
                    subject.models,
                    tuple(files[shape_key([model])] for model in subject.models) if files else None,
                )
                for subject in subjects
            ]
            return time_contenders(
                contenders,
                batch_size=recipe.bench.batch_size,
                seconds=recipe.bench.seconds,
                thread_count=recipe.bench.threads,
                warmups=WARMUPS,
            )


def _files_to_time(subjects: Sequence[Subject], folder: Path, scratch: Path, notes: list[str]) -> dict[str, Path]:
    """A file for every shape among the subjects' models; none at all, and a note, where one of them cannot have any."""
    own = folder / "onnx" / MODEL
    files = {shape_key(subjects[-1].models): own} if own.is_file() else {}
    try:
        for model in (model for subject in subjects for model in subject.models):
            if (key := shape_key([model])) not in files:
                files[key] = export_to_time(model, scratch / str(len(files)))
    except UnsupportedError as error:
        notes.append(f"latency was measured in torch only: {error}")
        return {}
    return files
