"""What a bench found, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from compressor.bench.rows import format_threads

Report = Mapping[str, Any]


def latency_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each model, backend and shape; milliseconds a call, and the most memory of its process."""
    table = _table("model", "backend")
    tokens = any(row["length"] is not None for row in rows)
    for title in ("batch", *(["tokens"] if tokens else []), "p50 ms", "p90", "p95", "p99", "first", "load", "peak MB"):
        table.add_column(title, justify="right")
    for row in rows:
        sizes = [str(row["batch_size"]), *([str(row["length"] or "")] if tokens else [])]
        times = (row[key] for key in ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "first_call_ms", "load_ms"))
        cells = [*sizes, *map(milliseconds, times), f"{row['peak_memory_bytes'] / 1e6:.0f}"]
        table.add_row(Text(row["model"]), row["backend"], *cells)
    return table


def describe_bench(found: Report) -> list[str]:
    """How a bench was measured, a line each."""
    settings, machine = found["settings"], found["environment"]
    calls, warmups = (min(row[key] for row in found["results"]) for key in ("iterations", "warmups"))
    first = found["results"][0]
    each = "" if first["length"] is None else f" × {first['length']} tokens"
    sample = "" if first["length"] is None else f"GMACs of {first['length']} tokens, "
    return [
        *([f"first table: {sample}p50 / p95 of batches of {first['batch_size']}{each}"] if found["table"] else []),
        f"each in a process of its own with {format_threads(settings['threads'])}, in turns: at least "
        f"{settings['seconds']:g} s and {calls} calls after {warmups} or more warm-ups",
        "first: the first call; load: from the file to a model that can be called; all in ms; peak: memory of the "
        "whole process",
        f"on {machine['cpu']}, torch {machine['torch']}, ONNX Runtime {machine['onnxruntime']}",
    ]


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each shape that two results share: A's figures, then B's."""
    table = _table("model", "backend")
    tokens = any(row["length"] is not None for row in rows)
    for title in ("batch", *(["tokens"] if tokens else []), "p50 ms", "p95 ms", "peak MB", "A / B"):
        table.add_column(title, justify="right")
    for row in rows:
        memory = " → ".join(f"{value / 1e6:.0f}" for value in row["peak_memory_bytes"])
        times = [" → ".join(map(milliseconds, row[key])) for key in ("p50_ms", "p95_ms")]
        sizes = [str(row["batch_size"]), *([str(row["length"] or "")] if tokens else [])]
        table.add_row(Text(row["model"]), row["backend"], *sizes, *times, memory, f"{row['speed_up']:.2f}")
    return table


def describe_comparison(found: Report, paths: Sequence[str]) -> list[str]:
    """What the ratio of a comparison is, and what two results do not share, a line each."""
    lines = ["A / B: how many times as fast B is, by p50"]
    lines += [f"only in {path}: {', '.join(rows)}" for path, rows in zip(paths, found["only"], strict=True) if rows]
    return [*lines, *(f"note: {note}" for note in found["notes"])]


def milliseconds(value: float) -> str:
    """With three digits, more or less."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold")
    return table
