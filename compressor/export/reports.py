"""Reports of exported files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.export.half_plan import HalfPlan
from compressor.export.opset import opset_of
from compressor.export.parity import ParityReport, combine_cases


@dataclass(frozen=True)
class FileReport:
    """One written file; `bytes` with its weights, `seconds` without the parity check, `half` of float16."""

    path: Path
    bytes: int
    opset: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float
    parity: ParityReport
    half: HalfPlan | None = None


@dataclass(frozen=True)
class ExportReport:
    """All files of a format; single values: the first file's, or totals."""

    files: tuple[FileReport, ...]

    @property
    def path(self) -> Path:
        return self.files[0].path

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def opset(self) -> int | None:
        return self.files[0].opset

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.files[0].inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.files[0].outputs

    @property
    def seconds(self) -> float:
        return sum(file.seconds for file in self.files)

    @property
    def parity(self) -> ParityReport:
        return combine_cases(
            [case for file in self.files for case in file.parity.cases], self.files[0].parity.tolerance
        )

    def moved(self, source: Path, target: Path) -> ExportReport:
        """The report after its files moved."""
        return ExportReport(tuple(replace(file, path=target / file.path.relative_to(source)) for file in self.files))


def report_file(
    path: Path,
    inputs: Iterable[str],
    outputs: Iterable[str],
    seconds: float,
    parity: ParityReport,
    half: HalfPlan | None = None,
) -> FileReport:
    """The report of a file on disk."""
    size = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
    opset = opset_of(path) if path.suffix == ".onnx" else None
    return FileReport(path, size, opset, tuple(inputs), tuple(outputs), seconds, parity, half)
