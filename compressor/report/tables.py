"""Tables of results, fitted to the width of a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from compressor.bench.metrics import METRICS, MISSING, format_precise, main_metric
from compressor.bench.rows import KL_TITLE, Row, table_columns
from compressor.report.describe import Report, describe_legend
from compressor.wording import shorten

#: Titles of `format_rows`.
FORMAT_TITLES = ("format", "files", "size", "relative error", "same predictions", "on the evaluation data", "float")
FORMAT_NOTES = (
    "Relative error: the norm of the logits' difference from torch over their norm; same predictions: how often the "
    "largest logit is the same. Both are of the evaluation samples where these are given, else of random inputs."
)
#: Columns of a name, below which other columns give way.
_LEAST_NAME = 16


class Name:
    """A name on one line, cut in the middle where it does not fit: both ends tell names apart."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # As `Text`: names in brackets are not markup.
        yield Text(shorten(self._name, options.max_width), no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = len(self._name)
        return Measurement(min(width, _LEAST_NAME), width).with_maximum(options.max_width)


class _ResultTable:
    """Rows of results; see `render_table`."""

    def __init__(self, rows: Sequence[Row], result: bool = False) -> None:
        self._rows, self._result = rows, result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, tails = self._columns(tails=True), True
        if _least_width(columns) > options.max_width:
            columns, tails = self._columns(tails=False), False
        table = plain_table(*columns, numbers=max(len(columns) - 1, 0), dense=not tails)
        lines = list(zip(*columns.values(), strict=True))
        for index, (name, *cells) in enumerate(lines):
            marked = self._result and index == len(lines) - 1
            table.add_row(Name(name), *cells, style="bold" if marked else None)
        yield from (table,) if table.show_edge else ("", table, "")
        if legend := describe_legend(self._rows, self._result, tails):
            yield Text(legend, style="dim")

    def _columns(self, tails: bool) -> dict[str, list[str]]:
        columns = table_columns(self._rows, self._result, tails=tails)
        return {"KL ↓" if title == KL_TITLE else title.replace(" (", "\n("): cells for title, cells in columns.items()}


def _least_width(columns: Mapping[str, Sequence[str]]) -> int:
    """Characters of a row in which only the name, in the first column, is shortened."""
    widths = [max(map(len, [*title.split("\n"), *cells])) for title, cells in columns.items()]
    # Two spaces between columns, and one at each side.
    return sum(width + 2 for width in [*(min(width, _LEAST_NAME) for width in widths[:1]), *widths[1:]])


def render_table(rows: Sequence[Row], result: bool = False) -> RenderableType:
    """The rows, and one line that explains their signs; where it is narrow, the 95th percentiles are left out.

    Args:
        result: mark the last row, the student in the folder.
    """
    return _ResultTable(rows, result)


def plain_table(*titles: str, numbers: int = 0, dense: bool = False) -> Table:
    """A table without lines; the last `numbers` columns are right-aligned; `dense` for narrow terminals."""
    padding = (0, 0, 0, 0) if dense else (0, 1, 0, 0)
    table = Table(box=box.SIMPLE, pad_edge=False, padding=padding, show_edge=not dense)
    for index, title in enumerate(titles):
        number = index >= len(titles) - numbers
        table.add_column(title, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def score_table(rows: Sequence[Report]) -> Table:
    """Scores of `compress evaluate`."""
    metrics = [metric for name, metric in METRICS.items() if any(row.get(name) is not None for row in rows)]
    unit = "samples" if all(row["samples"] >= row["labelled"] for row in rows) else "tokens"
    titles = [*(metric.title for metric in metrics), unit, "params (M)"]
    table = plain_table("model", *titles, numbers=len(titles))
    for row in rows:
        cells = [metric.format(row.get(metric.name), row.get(f"{metric.name}_error")) for metric in metrics]
        table.add_row(Name(row["name"]), *cells, str(row["labelled"]), f"{row['parameters'] / 1e6:.3f}")
    return table


def latency_table(rows: Sequence[Report]) -> Table:
    """Milliseconds per call, how many times as fast as the first model, peak memory, and energy where it is known."""
    several = len({row["model"] for row in rows}) > 1
    energy = any(row.get("joules") is not None for row in rows)
    titles = ("p50 ms", *["× 1st"] * several, "p95", "p99", "first", "load", "peak MB", *["mJ"] * energy)
    table = _shape_table(rows, *titles)
    for row in rows:
        p50, *times = (row[key] for key in ("p50_ms", "p95_ms", "p99_ms", "first_call_ms", "load_ms"))
        ratio = row.get("times_first")
        times_first = [MISSING if ratio is None else f"{ratio:.2f}"] if several else []
        cells = [milliseconds(p50), *times_first, *map(milliseconds, times), f"{row['peak_memory_bytes'] / 1e6:.0f}"]
        joules = row.get("joules")
        cells += [MISSING if joules is None else f"{1e3 * joules:.3g}"] if energy else []
        table.add_row(*_shape_cells(row, rows), *cells)
    return table


def comparison_table(rows: Sequence[Report]) -> Table:
    """Shapes in both bench results: A, then B."""
    table = _shape_table(rows, "p50 ms", "p95 ms", "peak MB", "A / B")
    for row in rows:
        memory = " → ".join(f"{value / 1e6:.0f}" for value in row["peak_memory_bytes"])
        times = [" → ".join(map(milliseconds, row[key])) for key in ("p50_ms", "p95_ms")]
        table.add_row(*_shape_cells(row, rows), *times, memory, _speed_up(row))
    return table


def _speed_up(row: Report) -> str:
    return f"{'≈ ' if row['within_spread'] else ''}{row['speed_up']:.2f}"


def format_rows(formats: Mapping[str, Report]) -> list[tuple[str, list[str], str, str, str, str, str]]:
    """Rows of `FORMAT_TITLES`."""
    rows = []
    for name, exported in formats.items():
        data = exported.get("evaluation") or {}
        agreement = data.get("agreement", exported["agreement"])
        rows.append(
            (
                name,
                list(exported["files"]),
                f"{exported['bytes'] / 1e6:.2f} MB",
                f"{data.get('relative_error', exported['relative_error']):.1e}",
                MISSING if agreement is None else f"{100 * agreement:.2f} %",
                _format_score(data),
                _format_score(data.get("float") or {}),
            )
        )
    return rows


def milliseconds(value: float) -> str:
    """A time with three digits."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _shape_table(rows: Sequence[Report], *titles: str) -> Table:
    shape = ("batch", *(["tokens"] if _has_tokens(rows) else []))
    table = plain_table("model", "backend", *shape, *titles, numbers=len(shape) + len(titles), dense=True)
    table.columns[1].no_wrap = True
    return table


def _shape_cells(row: Report, rows: Sequence[Report]) -> list[Name | str]:
    tokens = [str(row["length"] or "")] if _has_tokens(rows) else []
    return [Name(row["model"]), row["backend"], str(row["batch_size"]), *tokens]


def _has_tokens(rows: Sequence[Report]) -> bool:
    return any(row["length"] is not None for row in rows)


def _format_score(score: Report) -> str:
    metric = main_metric(score)
    return MISSING if metric is None else format_precise(metric, score[metric.name])
