"""Tables in .json files: one value, or a value in each line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from compressor.data.files.packed_files import open_unpacked
from compressor.data.files.table_checks import MAX_COLUMNS
from compressor.errors import UserError

_KINDS = "a list of objects, an object of columns, or an object in each line"


def read_json_tables(files: Sequence[Path]) -> Dataset:
    """The rows of all files.

    Raises:
        UserError: no table.
        ValueError: not JSON, not UTF-8.
        pyarrow.ArrowException: a column of several types.
    """
    rows = [row for file in files for row in _rows(file)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{files[0]} has {len(names)} columns, more than {MAX_COLUMNS}")
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})


def _rows(file: Path) -> list[dict[str, Any]]:
    with open_unpacked(file, mode="rt", encoding="utf-8-sig") as content:
        text = content.read()
    try:
        value = json.loads(text)
    except ValueError:
        # Either JSON lines, or no JSON at all.
        value = [json.loads(line) for line in text.split("\n") if line.strip()]
    rows = _table(value)
    if rows is None:
        raise UserError(f"{file} is no table: it has to hold {_KINDS}")
    return rows


def _table(value: Any) -> list[dict[str, Any]] | None:
    """Rows of records, texts, columns (as pandas writes them) or one list of records in an object; None for others."""
    if isinstance(value, list):
        rows = [{"text": item} if isinstance(item, str) else item for item in value]
        return rows if all(isinstance(row, dict) for row in rows) else None
    if not isinstance(value, dict):
        return None
    columns = [list(item.values()) if isinstance(item, dict) else item for item in value.values()]
    records = [item for item in columns if isinstance(item, list) and item and isinstance(item[0], dict)]
    if len(records) == 1 and (len(columns) == 1 or not _are_columns(columns)):
        return _table(records[0])
    if _are_columns(columns):
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return [value]


def _are_columns(columns: list[Any]) -> bool:
    return all(isinstance(item, list) for item in columns) and len({len(item) for item in columns}) == 1
