"""The student's ONNX files, and the latency of every subject in torch and in ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compressor.bench.accuracy import DeployedScore, Score, measure_deployed
from compressor.errors import UnsupportedError
from compressor.export.files import files_of
from compressor.export.formats import EXPORT_FORMATS, FLOAT
from compressor.export.onnx import ExportReport, FileReport, plain, write_onnx
from compressor.export.parity_cases import MODEL, answers_of
from compressor.export.write import write_formats
from compressor.pipeline.data_splits import RunData
from compressor.pipeline.evaluation import EvaluatedModel
from compressor.pipeline.progress import StageReporter
from compressor.pipeline.timing import TimedModel, Timing, shape_key, time_contenders
from compressor.recipe import ExportOptions, Recipe
from compressor.utils.disk import disk_full_as_user_error

#: Fewer than `compress bench` takes; the report states them.
WARMUPS = 5


@dataclass(frozen=True)
class Delivery:
    """What a model was delivered as.

    Attributes:
        onnx: the float32 ONNX files, as `export_report` tells of them; None if they were not asked for.
        formats: every format by name, as `format_report` tells of it.
    """

    onnx: dict[str, Any] | None
    formats: dict[str, Any]


def export_and_verify(
    options: ExportOptions,
    model: PreTrainedModel,
    folder: Path,
    stages: StageReporter,
    *,
    processor: Any | None = None,
    data: RunData | None = None,
    seed: int = 0,
    notes: list[str] | None = None,
) -> Delivery:
    """Write a model in every format that is wanted, compare each with torch, and measure it on the evaluation samples.

    Args:
        options: of the export.
        model: the student.
        folder: where it was written.
        stages: the run's.
        processor: its preprocessor or tokenizer, to lie beside the files.
        data: calibration samples for int8, and evaluation samples.
        seed: of the random inputs that are compared.
        notes: told of formats that the model cannot be written in; without it that is an error.

    Raises:
        ParityError: a format that is to be exact differs by more than the tolerance.
        UnsupportedError: a format cannot express the model, and there are no `notes`.
    """
    names = options.wanted
    if not names:
        return Delivery(None, {})

    def left_out(name: str, error: UnsupportedError) -> None:
        assert notes is not None
        what = "ONNX file" if name == FLOAT else f"{name} file"
        notes.append(f"no {what} was written: {error}")

    with stages("export", f"exporting ({', '.join(names)}) and checking against torch"):
        try:
            written = write_formats(
                names,
                model,
                folder,
                options,
                calibration=data.calibration if data else (),
                processor=processor,
                seed=seed,
                left_out=None if notes is None else left_out,
            )
        except UnsupportedError as error:
            # Of a kind that has no files at all.
            if notes is None:
                raise
            left_out(FLOAT, error)
            return Delivery(None, {})
    scores: dict[str, DeployedScore] = {}
    own: Score | None = None
    # The float32 file is exact: what the table says of the model is true of it.
    inexact = {
        name: partial(answers_of, one.files) for name, one in written.items() if not EXPORT_FORMATS.get(name).exact
    }
    if inexact and data is not None and data.evaluation is not None:
        with stages("evaluate", f"evaluating {', '.join(inexact)}"):
            own, scores = measure_deployed(plain(model), inexact, data.evaluation)
    reports = {name: format_report(name, one.report, own, scores.get(name)) for name, one in written.items()}
    return Delivery(export_report(written[FLOAT].report) if FLOAT in written else None, reports)


def export_to_time(model: PreTrainedModel, folder: Path) -> Path:
    """Write a file of the whole model that is only timed: whether it agrees with torch is not asked.

    Returns:
        Its path below `folder`.

    Raises:
        UnsupportedError: torch cannot export the model, or it has no file of its whole.
    """
    if all(kind.name != MODEL for kind in files_of(model, cache=False)):
        raise UnsupportedError(f"{type(model).__name__} has no ONNX file of the whole model")
    return write_onnx(model, folder, cache=False, tolerance=1.0, batch_sizes=(1,)).path


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


def format_report(
    name: str, report: ExportReport, own: Score | None = None, found: DeployedScore | None = None
) -> dict[str, Any]:
    """What report.json says of a format: its files, how far they are from torch, and how good they are on data.

    Args:
        name: of the format.
        report: of its files.
        own: the model's score on the evaluation samples.
        found: the files' score on them.
    """
    made = EXPORT_FORMATS.get(name)
    said: dict[str, Any] = {
        "meaning": made.meaning,
        "bytes": report.bytes,
        "exact": made.exact,
        "largest_relative_difference": report.parity.max_rel,
        "relative_error": report.parity.error,
        "agreement": report.parity.agreement,
        "files": {f"{made.folder}/{file.path.name}": _about(file) for file in report.files},
        "evaluation": None,
    }
    if own is not None and found is not None:
        said["evaluation"] = {
            "samples": own.samples,
            **{key: getattr(found.score, key) for key in ("accuracy", "f1", "perplexity")},
            "float": {key: getattr(own, key) for key in ("accuracy", "f1", "perplexity")},
            "kl": found.score.kl,
            "agreement": found.agreement,
            "relative_error": found.error,
        }
    return said


def _about(file: FileReport) -> dict[str, Any]:
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
    recipe: Recipe, subjects: Sequence[EvaluatedModel], folder: Path | None, stages: StageReporter, notes: list[str]
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
            with stages("export", "exporting the teachers to time them"), disk_full_as_user_error(f"to {scratch}"):
                files = _files_to_time(subjects, folder, Path(scratch), notes)
        with stages("latency", "timing") as tell:
            tell(None, f"timing batches of {recipe.bench.batch_size} in turns")
            for subject in subjects:
                for model in subject.models:
                    model.to(recipe.device)  # type: ignore[arg-type]
            contenders = [
                TimedModel(
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


def _files_to_time(
    subjects: Sequence[EvaluatedModel], folder: Path, scratch: Path, notes: list[str]
) -> dict[str, Path]:
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
