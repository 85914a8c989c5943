"""The table of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from compressor.bench.metrics import METRICS, MISSING
from compressor.utils.markdown import escape_markdown

KL_TITLE = "KL to the ensemble ↓ (nats)"
#: Before the name of the row of the result.
RESULT_MARK = "→ "


@dataclass(frozen=True)
class Row:
    """One model; `None` for missing values.

    Attributes:
        kl: KL(ensemble ‖ model) in nats, mean over samples or tokens.
        accuracy_error and others: one standard error.
        macs: multiply–accumulates per sample.
        scores: metrics without a field here, and their standard errors, by name.
    """

    name: str
    accuracy: float | None
    kl: float | None
    parameters: int
    macs: int
    bytes: int
    torch_p50_ms: float | None = None
    torch_p95_ms: float | None = None
    ort_p50_ms: float | None = None
    ort_p95_ms: float | None = None
    f1: float | None = None
    perplexity: float | None = None
    accuracy_error: float | None = None
    kl_error: float | None = None
    perplexity_error: float | None = None
    f1_error: float | None = None
    spearman: float | None = None
    spearman_error: float | None = None
    rmse: float | None = None
    rmse_error: float | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)

    def score(self, name: str) -> float | None:
        """A metric or a standard error; None if missing."""
        return getattr(self, name) if name in ROW_FIELDS else self.scores.get(name)

    def cells(self, tails: bool = True) -> dict[str, str]:
        """{column title: text}, in order; times with the 95th percentile if `tails`."""
        return {
            "model": self.name,
            **{
                metric.title: metric.format(self.score(name), self.score(f"{name}_error"))
                for name, metric in METRICS.items()
                if name in ROW_FIELDS or name in self.scores
            },
            KL_TITLE: format_kl(self.kl, self.kl_error),
            "params (M)": _scaled(self.parameters, 1e6),
            "GMACs": _scaled(self.macs, 1e9),
            "MB": _scaled(self.bytes, 1e6),
            "torch ms": _milliseconds(self.torch_p50_ms, self.torch_p95_ms, tails),
            "ORT ms": _milliseconds(self.ort_p50_ms, self.ort_p95_ms, tails),
        }


#: Names that every row has.
ROW_FIELDS = frozenset(each.name for each in fields(Row))


def make_row(**values: Any) -> Row:
    """A row of values by name; metrics without a field become `scores`."""
    own = {name: value for name, value in values.items() if name in ROW_FIELDS}
    others = {name: value for name, value in values.items() if name not in ROW_FIELDS and value is not None}
    return Row(**own, scores=others)


def table_columns(rows: Iterable[Row], result: bool = False, *, tails: bool = True) -> dict[str, list[str]]:
    """{title: cells}, without empty columns.

    Args:
        result: mark the last row.
        tails: see `Row.cells`.
    """
    texts = [row.cells(tails) for row in rows]
    if result and texts:
        texts[-1]["model"] = RESULT_MARK + texts[-1]["model"]
    longest = max(texts, key=len, default={})
    table = {title: [cells.get(title, MISSING) for cells in texts] for title in longest}
    return {title: cells for title, cells in table.items() if any(cell != MISSING for cell in cells)}


def to_markdown(rows: Sequence[Row], result: bool = False) -> str:
    """A Markdown table, the last row marked if it is the `result`; empty for no rows."""
    table = table_columns(rows, result)
    if not table:
        return ""
    rule = [":--", *["--:"] * (len(table) - 1)]
    lines = [(escape_markdown(name), *cells) for name, *cells in zip(*table.values(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (list(table), rule, *lines)) + "\n"


def to_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows as in report.json."""
    return [{**{k: v for k, v in asdict(row).items() if k != "scores"}, **row.scores} for row in rows]


def from_json(values: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of a report.json."""
    return [make_row(**value) for value in values]


def format_kl(value: float | None, error: float | None = None) -> str:
    """Three decimals, such as "0.083 ± 0.002"."""
    if value is None:
        return MISSING
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def format_count(value: float) -> str:
    """Such as "52.2 k"."""
    value = float(f"{value:.3g}")
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def format_threads(count: int) -> str:
    """Such as "4 threads"."""
    return "1 thread" if count == 1 else f"{count} threads"


def _scaled(value: float, unit: float) -> str:
    scaled = value / unit
    if scaled >= 100:
        return f"{scaled:.1f}"
    if scaled >= 1:
        return f"{scaled:.2f}"
    return f"{scaled:.3f}" if scaled >= 0.0005 or value == 0 else "<0.001"


def _milliseconds(p50: float | None, p95: float | None, tails: bool) -> str:
    if p50 is None or p95 is None:
        return MISSING
    digits = 0 if p50 >= 100 else 1 if p50 >= 10 else 2
    return f"{p50:.{digits}f}" + (f" / {p95:.{digits}f}" if tails else "")
