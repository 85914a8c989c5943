"""Results of `evaluate` and `bench`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from compressor.api.views import TableView
from compressor.bench.metrics import METRICS
from compressor.bench.rows import Row, from_json

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class ModelScore:
    """One model on data; None for what its task does not have.

    Attributes:
        accuracy: in [0, 1], of samples or tokens.
        accuracy_error and others: standard errors.
        parameters: of all models of an ensemble.
        fingerprint: sha256 of the weights.
        scores: every score that its task has, by the names of `compress evaluate --json`: `miou`, `map`, `exact_match`,
            `wer` and others.
        errors: their standard errors.
    """

    name: str
    accuracy: float | None
    accuracy_error: float | None
    f1: float | None
    f1_error: float | None
    perplexity: float | None
    perplexity_error: float | None
    spearman: float | None
    spearman_error: float | None
    rmse: float | None
    rmse_error: float | None
    samples: int
    labelled: int
    parameters: int
    fingerprint: str | None
    scores: Mapping[str, float]
    errors: Mapping[str, float]

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> ModelScore:
        """A row of the evaluation."""
        scores = {name: row[name] for name in METRICS if row.get(name) is not None}
        errors = {name: row[f"{name}_error"] for name in scores if row.get(f"{name}_error") is not None}
        own = [field.name for field in fields(cls) if field.name not in ("scores", "errors")]
        return cls(**{name: row[name] for name in own}, scores=scores, errors=errors)


class Evaluation(TableView):
    """The result of `evaluate`: a `ModelScore` per model, by number or by name."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self.rows = tuple(map(ModelScore.of_row, values["rows"]))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ModelScore]:
        return iter(self.rows)

    def __getitem__(self, key: int | str) -> ModelScore:
        if isinstance(key, int):
            return self.rows[key]
        if key not in (names := [row.name for row in self.rows]):
            raise KeyError(f"no model '{key}' was measured: {', '.join(names)}")
        return self.rows[names.index(key)]

    def to_dict(self) -> dict[str, Any]:
        """The same as `compress evaluate --json`."""
        return dict(self._values)

    def parts(self) -> list[RenderableType]:
        from compressor.report.describe import describe_data
        from compressor.report.tables import score_table

        return [score_table(self._values["rows"]), describe_data(self._values)]


class Benchmark(TableView):
    """The result of `bench`: a row per model, and a measurement per model, backend, batch size and length."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self.rows: tuple[Row, ...] = tuple(from_json(values["table"]))
        self.measurements: tuple[dict[str, Any], ...] = tuple(values["results"])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def to_dict(self) -> dict[str, Any]:
        """The same as `compress bench --json`."""
        return dict(self._values)

    def parts(self) -> list[RenderableType]:
        from compressor.report.summary import table_of
        from compressor.report.tables import latency_table

        table: list[RenderableType] = [table_of(self._values)] if self._values["table"] else []
        return [*table, latency_table(self._values["results"]), *(f"note: {note}" for note in self._values["notes"])]
