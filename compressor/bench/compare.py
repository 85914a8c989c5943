"""Bench results in files, and two of them side by side."""

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
#: What must be alike for latencies to be comparable: place in a result, and what it is called.
_ALIKE = (
    (("environment", "cpu"), "processor"),
    (("environment", "torch"), "torch"),
    (("environment", "onnxruntime"), "ONNX Runtime"),
    (("settings", "threads"), "number of threads"),
    (("settings", "device"), "device"),
)


def read_result(path: str | Path) -> dict[str, Any]:
    """A result that `compress bench --output` has written.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    try:
        found = read_json(Path(path).expanduser(), _RESULT_BYTES)
        rows = found["results"]
        if all({"model", "backend", "batch_size", "length", "p50_ms"} <= row.keys() for row in rows):
            return dict(found)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(f"{path} is not a result of compress bench: make one with --output")


def check_result_file(path: str, force: bool) -> Path:
    """Where a result may be written.

    Raises:
        UserError: as of `compressor.utils.files.check_file`.
    """
    return files.check_file(Path(path).expanduser(), force)


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result, whole or not at all."""
    try:
        files.atomic_write_text(path, json_text(result, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def compare_results(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """What both results have measured, and how the second relates to the first.

    Rows are matched by model, backend, batch size and length; results of one model each by the last three, whatever
    the models are called.

    Returns:
        rows {model, backend, batch_size, length, p50_ms, p95_ms, peak_memory_bytes: a pair each, and speed_up: the
        first's p50 over the second's}, only: rows of one result alone, notes: on what is not alike.

    Raises:
        UserError: they have nothing in common.
    """
    named = not all(len({row["model"] for row in one["results"]}) == 1 for one in (first, second))
    ours, theirs = (_by_key(one["results"], named) for one in (first, second))
    rows = []
    for key in (key for key in ours if key in theirs):
        one, other = ours[key], theirs[key]
        models = dict.fromkeys((one["model"], other["model"]))
        rows.append(
            {
                "model": " → ".join(models),
                **{name: one[name] for name in ("backend", "batch_size", "length")},
                **{name: [one[name], other[name]] for name in ("p50_ms", "p95_ms", "peak_memory_bytes")},
                "speed_up": one["p50_ms"] / other["p50_ms"],
            }
        )
    if not rows:
        raise UserError("the two results have no model, backend, batch size and length in common")
    notes = []
    for (section, field), name in _ALIKE:
        values = [one.get(section, {}).get(field) for one in (first, second)]
        if values[0] != values[1]:
            notes.append(f"measured with another {name}: {values[0]} and {values[1]}")
    only = [[_said(key) for key in a if key not in b] for a, b in ((ours, theirs), (theirs, ours))]
    return {"rows": rows, "only": only, "notes": notes}


def _by_key(rows: Sequence[Mapping[str, Any]], named: bool) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    keys = ("model", "backend", "batch_size", "length") if named else ("backend", "batch_size", "length")
    return {tuple(row[key] for key in keys): row for row in rows}


def _said(key: tuple[Any, ...]) -> str:
    return " ".join(str(part) for part in key if part is not None)
