"""What the formats of a student are worth, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.bench.rows import MISSING, format_perplexity

#: Titles of the columns.
TITLES = ("format", "files", "size", "relative error", "same answers", "on the evaluation data", "float")
#: What they mean.
DESCRIPTIONS = (
    "Relative error: the norm of the logits' difference from torch over their norm; same answers: how often the "
    "largest logit is the same. Both are of the evaluation samples where these are given, else of random inputs."
)


def format_rows(formats: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str], str, str, str, str, str]]:
    """A row for each format: its files, its distance from torch and what it is worth on data beside float."""
    rows = []
    for name, found in formats.items():
        data = found.get("evaluation") or {}
        agreement = data.get("agreement", found["agreement"])
        rows.append(
            (
                name,
                list(found["files"]),
                f"{found['bytes'] / 1e6:.2f} MB",
                f"{data.get('relative_error', found['relative_error']):.1e}",
                MISSING if agreement is None else f"{100 * agreement:.2f} %",
                _score(data),
                _score(data.get("float") or {}),
            )
        )
    return rows


def _score(values: Mapping[str, Any]) -> str:
    if (accuracy := values.get("accuracy")) is not None:
        return f"{100 * accuracy:.2f} %"
    return MISSING if values.get("perplexity") is None else format_perplexity(values["perplexity"])
