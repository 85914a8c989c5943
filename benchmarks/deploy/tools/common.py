"""What the tools' scripts share; they run in environments without this project."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

#: Allowed differences above this are of files with less precision.
FULL = 0.002


def models_in(folder: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder of a model, what is expected of it)."""
    for path in sorted(Path(folder).glob("*/expected.json")):
        yield path.parent, json.loads(path.read_text(encoding="utf-8"))


def arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{name: array}; integers as int64, others as float32."""
    made = {name: np.array(value["values"]).reshape(value["shape"]) for name, value in values.items()}
    return {name: a.astype(np.int64 if a.dtype.kind in "iub" else np.float32) for name, a in made.items()}


def compared(given: np.ndarray, expected: np.ndarray, allowed: float) -> str:
    """How far an output is from torch's, in bold if that is too far."""
    if given.shape != expected.shape:
        return f"shape {given.shape} for {expected.shape}"
    largest = float(np.abs(given - expected).max() / np.abs(expected).max())
    error = float(np.linalg.norm(given - expected) / np.linalg.norm(expected))
    return f"{largest:.0e}" if min(largest, error) <= allowed else f"**{largest:.0e}**"


def same_tokens(given: np.ndarray, expected: np.ndarray, count: int, allowed: float) -> str:
    """The share of the last `count` tokens that are the same; in bold if a file of full precision has others."""
    if given.shape != expected.shape:
        return f"**{given.shape[1]} tokens for {expected.shape[1]}**"
    share = f"{100 * float((given == expected)[:, -count:].mean()):.0f} %"
    return share if share == "100 %" or allowed > FULL else f"**{share}**"


def attempt(call: Callable[[], str]) -> str:
    """What a call says, or its error in one line."""
    try:
        return call()
    # Tools raise errors of any class.
    except Exception as error:
        return f"FAILS: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def report(packages: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Print the last line, which is read."""
    print(json.dumps({"tool": ", ".join(f"{name} {version(name)}" for name in packages), "rows": rows}))
    sys.stdout.flush()
