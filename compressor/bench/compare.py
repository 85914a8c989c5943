"""Results of `compress bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.utils import files
from compressor.utils.input_files import MIB, read_json
from compressor.utils.strict_json import json_text

#: Most bytes of a result that is read.
_RESULT_BYTES = 64 * MIB

#: Fields that should agree for latencies to be comparable: (section, field) and its name in notes.
_COMPARABLE = (
    (("environment", "cpu"), "processor"),
    (("environment", "torch"), "torch"),
    (("environment", "onnxruntime"), "ONNX Runtime"),
    (("settings", "threads"), "number of threads"),
    (("settings", "device"), "device"),
)


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        UserError: missing or foreign file.
    """
    try:
        result = read_json(Path(path).expanduser(), _RESULT_BYTES)
        rows = result["results"]
        if all({"model", "backend", "batch_size", "length", "p50_ms"} <= row.keys() for row in rows):
            return dict(result)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(f"{path} is not a result of compress bench: make one with --output")


def check_result_file(path: str, force: bool) -> Path:
    """The path of a result to write.

    Raises:
        UserError: see `compressor.utils.files.check_file`.
    """
    return files.check_file(Path(path).expanduser(), force)


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result atomically."""
    try:
        files.atomic_write_text(path, json_text(result, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def with_ratios(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results with samples per second, and how many times as fast as the first model of the same kind each is.

    The kind is backend, batch size and length; the first model may be missing in one, and then there is no ratio.
    """
    firsts: dict[tuple[Any, ...], float] = {}
    rows = []
    for row in results:
        kind = tuple(row[key] for key in ("backend", "batch_size", "length"))
        if row["model"] == results[0]["model"]:
            firsts[kind] = row["p50_ms"]
        ratio = firsts[kind] / row["p50_ms"] if kind in firsts else None
        rows.append({**row, "samples_per_second": 1e3 * row["batch_size"] / row["p50_ms"], "times_first": ratio})
    return rows


def compare_results(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Match rows by model, backend, batch size and length; without model if each result has one.

    Returns:
        rows with pairs of values, speed_up (first p50 / second) and within_spread (whether medians of turns of both
        overlap; None for results of former versions); only: unmatched rows; notes: different settings.

    Raises:
        UserError: no row matches.
    """
    by_model = not all(len({row["model"] for row in result["results"]}) == 1 for result in (first, second))
    first_rows, second_rows = (_by_key(result["results"], by_model) for result in (first, second))
    rows = [_compared(row, second_rows[key]) for key, row in first_rows.items() if key in second_rows]
    if not rows:
        raise UserError("the two results have no model, backend, batch size and length in common")
    notes = []
    for (section, field), name in _COMPARABLE:
        values = [result.get(section, {}).get(field) for result in (first, second)]
        if values[0] != values[1]:
            notes.append(f"measured with another {name}: {values[0]} and {values[1]}")
    only = [
        [_row_name(key) for key in a if key not in b] for a, b in ((first_rows, second_rows), (second_rows, first_rows))
    ]
    return {"rows": rows, "only": only, "notes": notes}


def _by_key(rows: Sequence[Mapping[str, Any]], by_model: bool) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    keys = ("model", "backend", "batch_size", "length") if by_model else ("backend", "batch_size", "length")
    return {tuple(row[key] for key in keys): row for row in rows}


def _compared(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": " → ".join(dict.fromkeys((first["model"], second["model"]))),
        **{name: first[name] for name in ("backend", "batch_size", "length")},
        **{name: [first[name], second[name]] for name in ("p50_ms", "p95_ms", "peak_memory_bytes")},
        "speed_up": first["p50_ms"] / second["p50_ms"],
        "within_spread": _within_spread(first, second),
    }


def _within_spread(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool | None:
    if not all({"p50_low_ms", "p50_high_ms"} <= row.keys() for row in (first, second)):
        return None
    return bool(first["p50_low_ms"] <= second["p50_high_ms"] and second["p50_low_ms"] <= first["p50_high_ms"])


def _row_name(key: tuple[Any, ...]) -> str:
    return " ".join(str(part) for part in key if part is not None)
