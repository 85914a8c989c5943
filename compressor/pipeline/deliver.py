"""The student in its formats, and the latency of all models."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compressor.bench.accuracy import DeployedScore, Score, measure_deployed
from compressor.bench.metrics import METRICS
from compressor.errors import UnsupportedError
from compressor.export.file_kinds import files_of
from compressor.export.formats import EXPORT_FORMATS, FLOAT
from compressor.export.half_plan import LARGEST_HALF, ROOM
from compressor.export.onnx import float32_on_cpu, write_onnx
from compressor.export.parity_cases import MODEL, logits_of_files
from compressor.export.reports import ExportReport, FileReport
from compressor.export.write import WrittenFormats, write_formats
from compressor.models.companions import Companions
from compressor.pipeline.data_splits import RunData
from compressor.pipeline.evaluation import EvaluatedModel
from compressor.pipeline.stages import StageReporter
from compressor.pipeline.timing import TimedModel, Timing, shape_key, time_contenders
from compressor.recipe import ExportOptions, Recipe
from compressor.utils.devices import on_device
from compressor.utils.files import disk_full_as_user_error

#: Calls before measuring: fewer than in `compress bench`.
WARMUPS = 5


_PLAIN = ExportOptions()


@dataclass(frozen=True)
class Delivery:
    """Files of a model in all formats.

    Attributes:
        onnx: `export_report` of float32 files, or None.
        formats: `format_report` by name.
        skipped: a line per unsupported format.
    """

    onnx: dict[str, Any] | None
    formats: dict[str, Any]
    skipped: tuple[str, ...] = ()


def export_and_verify(
    options: ExportOptions,
    model: PreTrainedModel,
    folder: Path,
    stages: StageReporter,
    *,
    companions: Companions | None = None,
    data: RunData | None = None,
    seed: int = 0,
    skip_unsupported: bool = False,
    left: Sequence[str] = (),
) -> Delivery:
    """Write a model in every wanted format, compare each with torch, and evaluate the inexact ones.

    Args:
        companions: written next to the files.
        data: calibrates int8, and evaluates.
        seed: of the compared inputs.
        skip_unsupported: leave out unsupported formats.
        left: formats whose files stay in the folder.

    Raises:
        ParityError: an exact format exceeds the tolerance.
        UnsupportedError: a format cannot express the model.
    """
    if not options.wanted:
        return Delivery(None, {})
    written, skipped = _write_files(options, model, folder, stages, companions, data, seed, skip_unsupported, left)
    score, scores = _evaluate_inexact(model, written, data, stages)
    reports = {name: format_report(name, made.report, score, scores.get(name)) for name, made in written.items()}
    onnx = export_report(written[FLOAT].report) if FLOAT in written else None
    return Delivery(onnx, reports, tuple(skipped))


def _write_files(
    options: ExportOptions,
    model: PreTrainedModel,
    folder: Path,
    stages: StageReporter,
    companions: Companions | None,
    data: RunData | None,
    seed: int,
    skip_unsupported: bool,
    left: Sequence[str],
) -> tuple[dict[str, WrittenFormats], list[str]]:
    """The written formats, and a line per skipped one."""
    skipped: list[str] = []

    def skip(name: str, error: UnsupportedError) -> None:
        skipped.append(f"no {'ONNX' if name == FLOAT else name} file was written: {error}")

    with stages("export", f"exporting ({', '.join(options.wanted)}) and checking against torch"):
        try:
            written = write_formats(
                options.wanted,
                model,
                folder,
                options,
                calibration=data.calibration if data else (),
                companions=companions,
                seed=seed,
                on_unsupported=skip if skip_unsupported else None,
                left=left,
            )
        except UnsupportedError as error:
            # Of a kind that has no files at all.
            if not skip_unsupported:
                raise
            skip(FLOAT, error)
            return {}, skipped
    return written, skipped


def _evaluate_inexact(
    model: PreTrainedModel, written: Mapping[str, WrittenFormats], data: RunData | None, stages: StageReporter
) -> tuple[Score | None, dict[str, DeployedScore]]:
    """Scores of the model and its inexact formats."""
    inexact = {
        name: partial(logits_of_files, made.files)
        for name, made in written.items()
        if not EXPORT_FORMATS.get(name).exact
    }
    if not inexact or data is None or data.evaluation is None:
        return None, {}
    with stages("evaluate", f"evaluating {', '.join(inexact)}"):
        return measure_deployed(float32_on_cpu(model), inexact, data.evaluation)


def export_to_time(model: PreTrainedModel, folder: Path, options: ExportOptions = _PLAIN) -> Path:
    """Write an ONNX file of the whole model that is only timed, without a check; its path.

    Raises:
        UnsupportedError: torch cannot export the model, or it has no single file.
    """
    if all(kind.name != MODEL for kind in files_of(model, options.cache)):
        raise UnsupportedError(f"{type(model).__name__} has no ONNX file of the whole model")
    report = write_onnx(model, folder, cache=options.cache, tolerance=1.0, batch_sizes=(1,), opset=options.opset)
    return report.path


def export_report(report: ExportReport) -> dict[str, Any]:
    """An export as in report.json: all files, then each."""
    return {
        "file": f"onnx/{report.path.name}",
        "bytes": report.bytes,
        "opset": report.opset,
        "tolerance": report.parity.tolerance,
        "largest_difference": report.parity.max_abs,
        "largest_relative_difference": report.parity.max_rel,
        "batch_sizes": sorted({case.batch for case in report.parity.cases}),
        "files": {f"onnx/{file.path.name}": _file_report(file) for file in report.files},
    }


def format_report(
    name: str, report: ExportReport, score: Score | None = None, deployed: DeployedScore | None = None
) -> dict[str, Any]:
    """A format as in report.json: files, difference from torch, scores of model and files."""
    export_format = EXPORT_FORMATS.get(name)
    values: dict[str, Any] = {
        "meaning": export_format.meaning,
        "bytes": report.bytes,
        "exact": export_format.exact,
        "largest_relative_difference": report.parity.max_rel,
        "relative_error": report.parity.error,
        "agreement": report.parity.agreement,
        "files": {f"{export_format.folder}/{file.path.name}": _file_report(file) for file in report.files},
        "evaluation": None,
    }
    if (half := _half_report(report)) is not None:
        values["float16"] = half
    if score is not None and deployed is not None:
        values["evaluation"] = {
            "samples": score.samples,
            **{key: getattr(deployed.score, key) for key in METRICS},
            "float": {key: getattr(score, key) for key in METRICS},
            "kl": deployed.score.kl,
            "agreement": deployed.agreement,
            "relative_error": deployed.error,
        }
    return values


def _half_report(report: ExportReport) -> dict[str, Any] | None:
    """How float16 was proven: of all files, the largest values in it and the operations left in float32."""
    plans = [file.half for file in report.files if file.half is not None]
    if not plans:
        return None
    kept = sum((Counter(plan.kept) for plan in plans), Counter())
    return {
        "limit": LARGEST_HALF,
        "room": ROOM,
        "samples": plans[0].samples,
        "largest_value": max(plan.largest for plan in plans),
        "largest_value_in_float16": max(plan.largest_in_half for plan in plans),
        "operations": sum(plan.operations for plan in plans),
        "operations_in_float32": dict(sorted(kept.items())),
    }


def _file_report(file: FileReport) -> dict[str, Any]:
    return {
        "bytes": file.bytes,
        "seconds": file.seconds,
        "inputs": list(file.inputs),
        "outputs": list(file.outputs),
        "largest_difference": file.parity.max_abs,
        "largest_relative_difference": file.parity.max_rel,
        "cases": {str(index): asdict(case) for index, case in enumerate(file.parity.cases)},
    }


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
