"""A model in its formats, each compared with torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compressor.bench.accuracy import DeployedScore, Score, measure_deployed
from compressor.errors import UnsupportedError
from compressor.export.formats import EXPORT_FORMATS, FLOAT
from compressor.export.half_plan import LARGEST_HALF, ROOM
from compressor.export.onnx import float32_on_cpu
from compressor.export.parity_cases import logits_of_files
from compressor.export.reports import ExportReport, FileReport
from compressor.export.write import WrittenFormats, write_formats
from compressor.models.inherited.companions import Companions
from compressor.models.tasks.table import task_of_model
from compressor.pipeline.data_splits import RunData
from compressor.pipeline.stages import StageReporter
from compressor.recipe import ExportOptions


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
        name: partial(logits_of_files, made.files, task_of_model(model))
        for name, made in written.items()
        if not EXPORT_FORMATS.get(name).exact
    }
    if not inexact or data is None or data.evaluation is None:
        return None, {}
    with stages("evaluate", f"evaluating {', '.join(inexact)}"):
        return measure_deployed(float32_on_cpu(model), inexact, data.evaluation)


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
            **deployed.score.metrics(),
            "float": score.metrics(),
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
