"""The report of a run, as in report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class RunReport:
    """Everything that a run chose and measured, JSON-ready, in the file's order.

    Attributes:
        version: of this package.
        reads: "image" or "text".
        teachers: name, kind and fingerprint.
        student: fingerprint, and the given student or None.
        budget: how the width was picked.
        mixture: of the ensemble (`compressor.ensemble.stacking.Mixture.report`).
        target: shape; None for a given student.
        fusion: None for a given student.
        warnings: lines on improvable results.
        finetune: `compressor.distillation.distill.FinetuneReport`.
        notes: lines on steps left out.
        length: tokens of a text sample.
        evaluation: samples, error of scores.
        differences: scores by group, agreement with the ensemble, samples that differ.
        table: `compressor.bench.rows.Row` per model.
        onnx: float32 files.
        formats: {name: report}.
        seconds: by stage.
    """

    version: str
    task: str
    reads: str
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    teachers: Sequence[Mapping[str, Any]]
    student: Mapping[str, Any]
    budget: Mapping[str, Any] | None
    mixture: Mapping[str, Any]
    target: Mapping[str, Any] | None
    fusion: Mapping[str, Any] | None
    warnings: Sequence[str]
    finetune: Mapping[str, Any] | None
    notes: Sequence[str]
    length: int | None
    evaluation: Mapping[str, Any] | None
    differences: Mapping[str, Any] | None
    table: Sequence[Mapping[str, Any]]
    latency: Mapping[str, Any] | None
    onnx: Mapping[str, Any] | None
    formats: Mapping[str, Any]
    seconds: Mapping[str, float]
    peak_memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """{field: value}."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
