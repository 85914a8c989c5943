"""Exported files that are there already, and stay if they are of this model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from compressor.errors import ParityError, UserError
from compressor.export.file_kinds import FileKind, every_kind
from compressor.export.formats import EXPORT_FORMATS
from compressor.export.onnx import float32_on_cpu
from compressor.export.parity import compare_outputs
from compressor.models.teacher import Teacher
from compressor.pipeline.output.documents import REPORT, read_report
from compressor.recipe import ExportOptions


@dataclass(frozen=True)
class ExistingFormat:
    """A format whose files are there and of this model; `difference` as in a report of that format."""

    files: tuple[str, ...]
    difference: float


def may_exist(folder: Path, name: str) -> bool:
    """Whether any file of a format is there."""
    return any(os.path.lexists(EXPORT_FORMATS.get(name).path(folder, kind)) for kind in every_kind())


def check_existing(name: str, teacher: Teacher, folder: Path, options: ExportOptions, seed: int) -> ExistingFormat:
    """Compare a format's files with the model, on the same random inputs as new ones.

    How far an inexact file is from the model proves nothing: int8 files of a student and of its teacher are as far.
    The folder's report has to say that it was written from these weights.

    Raises:
        UserError: a file is missing, is no plain file, does not run, or is of another model.
    """
    model, written_as = teacher.model, EXPORT_FORMATS.get(name)
    kinds = written_as.kinds(model, options.cache)
    paths = {kind.name: written_as.path(folder, kind) for kind in kinds}
    there = next((path for kind in every_kind() if os.path.lexists(path := written_as.path(folder, kind))), folder)
    if missing := [path.name for path in paths.values() if not path.is_file() or path.is_symlink()]:
        raise UserError(
            f"{there} exists already, and {', '.join(missing)} of the same format does not: write all anew with --force"
        )
    if not written_as.exact and not _is_recorded(name, list(paths.values()), folder, teacher.fingerprint):
        raise UserError(
            f"{there} exists already, and no {REPORT} says that it is of this model: replace it with --force"
        )
    try:
        difference = _difference(name, kinds, paths, float32_on_cpu(model), options, seed)
    except ParityError as error:
        raise UserError(
            f"{there} exists already, but is not of this model: replace it with --force ({error})"
        ) from None
    return ExistingFormat(tuple(str(path.relative_to(folder)) for path in paths.values()), difference)


def _difference(
    name: str,
    kinds: Sequence[FileKind],
    paths: dict[str, Path],
    model: PreTrainedModel,
    options: ExportOptions,
    seed: int,
) -> float:
    written_as = EXPORT_FORMATS.get(name)
    training = model.training
    model.eval()
    try:
        files = {kind: written_as.open(path) for kind, path in paths.items()}
        tolerance = options.tolerance if written_as.exact else math.inf
        reports = compare_outputs(kinds, files, model, tolerance=tolerance, batch_sizes=(1, 2), seed=seed)
    finally:
        model.train(training)
    if written_as.exact:
        return max(report.max_rel for report in reports.values())
    return max(report.error for report in reports.values())


def _is_recorded(name: str, paths: Sequence[Path], folder: Path, fingerprint: str) -> bool:
    """Whether the folder's report lists files of these sizes, of a student of these weights."""
    if not (folder / REPORT).exists():
        return False
    report = read_report(folder)
    written = ((report.get("formats") or {}).get(name) or {}).get("files") or {}
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
    recorded = {file: (written.get(file) or {}).get("bytes") for file in sizes}
    return (report.get("student") or {}).get("fingerprint") == fingerprint and recorded == sizes
