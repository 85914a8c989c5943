"""Comparison of exported files with torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from compressor.ensemble.answers import Answers, model_answers
from compressor.errors import ParityError
from compressor.export.file_kinds import FileKind, files_of
from compressor.export.parity_cases import Files, OutputPair, ParityTrial
from compressor.export.runtime import Session
from compressor.models.tasks.table import task_of_model


@dataclass(frozen=True)
class ParityCase:
    """Largest differences on one input.

    Attributes:
        padding: of the first sample: "none", "right" or "left".
        steps: tokens of consecutive calls with a cache.
        inputs: names and shapes.
        error: ‖given − expected‖ / ‖expected‖ of all outputs.
        agreement: share of logit rows with the same answer; None for values.
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
    """Largest differences of a file, relative to an output's maximum; tolerance ∞ for approximate formats."""

    max_abs: float
    max_rel: float
    tolerance: float
    cases: tuple[ParityCase, ...]

    @property
    def error(self) -> float:
        """Largest error of a case."""
        return max(case.error for case in self.cases)

    @property
    def agreement(self) -> float | None:
        """Mean over cases with logits."""
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
    """Compare ONNX files with torch on random inputs.

    Text of two lengths, with and without padding, is compared where the mask is 1; samples padded on the left only if
    outputs do not depend on padded tokens.  Files with past continue from earlier outputs, by one token and by several;
    torch runs with and without a cache.

    Args:
        model: float32, on the CPU, in eval mode.
        tolerance: of max|onnx − torch| / max|torch|, per output.

    Raises:
        ParityError: a file is invalid, does not run, or differs by more than `tolerance`.
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
    """`check_parity` of open files, {kind: file}."""
    reports, answers = {}, model_answers(model) if task_of_model(model).plain else None
    for kind in kinds:
        path = files[kind.name].path
        trials = (trial for batch in batch_sizes for trial in kind.cases(files, model, batch, seed))
        reports[kind.name] = combine_cases([_case(path, trial, answers) for trial in trials], tolerance)
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


def _case(path: Path, trial: ParityTrial, answers: Answers | None) -> ParityCase:
    differences = [_difference(path, pair, trial.inputs, answers) for pair in trial.pairs]
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
    """Differences of one output, squared norms, (rows that agree, all rows)."""

    max_abs: float
    max_rel: float
    squares: float
    size: float
    rows: tuple[int, int] | None


def _difference(path: Path, pair: OutputPair, inputs: str, answers: Answers | None) -> _Difference:
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
    same = answers.agree(expected, given) if pair.name == "logits" and answers is not None else None
    return _Difference(
        absolute,
        absolute / max(1e-12, float(expected.abs().max())),
        float((given - expected).square().sum()),
        float(expected.square().sum()),
        None if same is None else (int(same.sum()), same.numel()),
    )
