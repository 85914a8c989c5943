"""The parity check: exported files must compute what the model computes in torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from compressor.errors import ParityError
from compressor.export.file_kinds import FileKind, files_of
from compressor.export.parity_cases import Files, OutputPair, ParityTrial
from compressor.export.runtime import Session


@dataclass(frozen=True)
class ParityCase:
    """One input and the largest differences on it.

    Attributes:
        length: tokens of a sample; None for images and spectrograms.
        padding: of the first sample: "none", "right" or "left".
        steps: tokens of consecutive calls with a cache; empty without one.
        inputs: names and shapes.
        error: ‖given − expected‖ / ‖expected‖ of all outputs together.
        agreement: share of the rows of logits [..., C] with the same largest entry; None without logits.
    """

    batch: int
    length: int | None
    padding: str
    steps: tuple[int, ...]
    inputs: str
    max_abs: float
    max_rel: float
    error: float = 0.0
    agreement: float | None = None


@dataclass(frozen=True)
class ParityReport:
    """The largest differences of a file over all cases, relative to the largest value of the same output.

    `tolerance` is infinite for formats that are not exact.
    """

    max_abs: float
    max_rel: float
    tolerance: float
    cases: tuple[ParityCase, ...]

    @property
    def error(self) -> float:
        """The largest error of a case."""
        return max(case.error for case in self.cases)

    @property
    def agreement(self) -> float | None:
        """The mean over the cases that have logits."""
        shares = [case.agreement for case in self.cases if case.agreement is not None]
        return sum(shares) / len(shares) if shares else None


def check_parity(
    folder: str | Path,
    model: PreTrainedModel,
    *,
    cache: bool = True,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 2, 5),
    seed: int = 0,
) -> dict[str, ParityReport]:
    """Check the ONNX files of a model and compare ONNX Runtime with torch on random inputs.

    Text is compared at two lengths, without padding and with padding on either side, at the positions of the mask; a
    sample with padding on the left only if the output of the model does not depend on the tokens under the padding.
    Files with past continue from the outputs of earlier files, by one token and by several, and are compared with torch
    with and without a cache; decoders follow the file of their encoder.

    Args:
        folder: of the files that `files_of` names.
        model: the float32 model on the CPU that they were made from, in eval mode.
        cache: whether there are files with past.
        tolerance: largest allowed max|onnx − torch| / max|torch| of any output of any case.
        batch_sizes: samples per case.
        seed: of the random inputs.

    Returns:
        A report for each file, by its name.

    Raises:
        ParityError: a file is not valid ONNX, does not run, gives other shapes, or differs by more than `tolerance`.
    """
    kinds = files_of(model, cache)
    files = {kind.name: Session(Path(folder) / kind.name) for kind in kinds}
    return compare_outputs(kinds, files, model, tolerance=tolerance, batch_sizes=batch_sizes, seed=seed)


def compare_outputs(
    kinds: Sequence[FileKind],
    files: Files,
    model: PreTrainedModel,
    *,
    tolerance: float,
    batch_sizes: Sequence[int] = (1, 2, 5),
    seed: int = 0,
) -> dict[str, ParityReport]:
    """`check_parity` for open files of any format, by the names of their kinds."""
    reports = {}
    for kind in kinds:
        path = files[kind.name].path
        trials = (trial for batch in batch_sizes for trial in kind.cases(files, model, batch, seed))
        reports[kind.name] = combine_cases([_case(path, trial) for trial in trials], tolerance)
        _refuse(path, reports[kind.name])
    return reports


def combine_cases(cases: Sequence[ParityCase], tolerance: float) -> ParityReport:
    """The report of several cases."""
    return ParityReport(max(c.max_abs for c in cases), max(c.max_rel for c in cases), tolerance, tuple(cases))


def _refuse(path: Path, report: ParityReport) -> None:
    if report.max_rel <= report.tolerance:
        return
    worst = max(report.cases, key=lambda case: case.max_rel)
    padding = "" if worst.padding == "none" else f" with {worst.padding} padding"
    steps = f" in steps of {' + '.join(map(str, worst.steps))}" if worst.steps else ""
    raise ParityError(
        f"{path} differs from torch by {worst.max_rel:.2e} of the largest value ({worst.max_abs:.2e} absolute) at "
        f"{worst.inputs}{padding}{steps}, more than the tolerance of {report.tolerance:.0e}"
    )


def _case(path: Path, trial: ParityTrial) -> ParityCase:
    differences = [_difference(path, pair, trial.inputs) for pair in trial.pairs]
    rows = [each.rows for each in differences if each.rows is not None]
    return ParityCase(
        trial.batch,
        trial.length,
        trial.padding,
        trial.steps,
        trial.inputs,
        max(each.max_abs for each in differences),
        max(each.max_rel for each in differences),
        math.sqrt(sum(each.squares for each in differences) / max(1e-24, sum(each.size for each in differences))),
        sum(same for same, _ in rows) / sum(total for _, total in rows) if rows else None,
    )


@dataclass(frozen=True)
class _Difference:
    """One output: largest differences, squared norms of difference and output, and (rows that agree, all rows)."""

    max_abs: float
    max_rel: float
    squares: float
    size: float
    rows: tuple[int, int] | None


def _difference(path: Path, pair: OutputPair, inputs: str) -> _Difference:
    if pair.given.shape != pair.expected.shape:
        raise ParityError(
            f"{path} gives {pair.name} of shape {tuple(pair.given.shape)} where torch gives "
            f"{tuple(pair.expected.shape)}, at {inputs}"
        )
    given, expected = pair.given.double(), pair.expected.double()
    if pair.counted is not None:
        given, expected = given[pair.counted.bool()], expected[pair.counted.bool()]
    if not torch.isfinite(given).all():
        raise ParityError(f"{path} gives {pair.name} that are not finite, at {inputs}")
    absolute = float((given - expected).abs().max())
    rows = None
    if pair.name == "logits":
        same = given.argmax(-1) == expected.argmax(-1)
        rows = (int(same.sum()), same.numel())
    return _Difference(
        absolute,
        absolute / max(1e-12, float(expected.abs().max())),
        float((given - expected).square().sum()),
        float(expected.square().sum()),
        rows,
    )
