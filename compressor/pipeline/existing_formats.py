"""Exported files that are there already, and stay if they are of this model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from compressor.errors import ParityError, UserError
from compressor.export.file_kinds import FileKind, every_kind, files_of
from compressor.export.formats import EXPORT_FORMATS
from compressor.export.onnx import float32_on_cpu
from compressor.export.parity import compare_outputs
from compressor.export.parity_cases import MODEL
from compressor.recipe import ExportOptions

#: Relative error of logits, above which an inexact file is of another model.  Int8 files of the tests' models differ by
#: less than a tenth, unrelated models by more than one.
_OTHER_MODEL = 0.5


@dataclass(frozen=True)
class ExistingFormat:
    """A format whose files are there and of this model; `difference` as in a report of that format."""

    files: tuple[str, ...]
    difference: float


def may_exist(folder: Path, name: str) -> bool:
    """Whether any file of a format is there."""
    return any(os.path.lexists(EXPORT_FORMATS.get(name).path(folder, kind)) for kind in every_kind())


def check_existing(
    name: str, model: PreTrainedModel, folder: Path, options: ExportOptions, seed: int
) -> ExistingFormat:
    """Compare a format's files with the model, on the same random inputs as new ones.

    Raises:
        UserError: a file is missing, is no plain file, does not run, or is of another model.
    """
    written_as = EXPORT_FORMATS.get(name)
    kinds = [kind for kind in files_of(model, options.cache) if not written_as.whole or kind.name == MODEL]
    paths = {kind.name: written_as.path(folder, kind) for kind in kinds}
    there = next((path for kind in every_kind() if os.path.lexists(path := written_as.path(folder, kind))), folder)
    if missing := [path.name for path in paths.values() if not path.is_file() or path.is_symlink()]:
        raise UserError(
            f"{there} exists already, and {', '.join(missing)} of the same format does not: write all anew with --force"
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
    error = max(report.error for report in reports.values())
    if not error <= _OTHER_MODEL:
        raise ParityError(f"the relative error of its logits is {error:.2f}")
    return error
