"""Bounded reading of users' files: regular, of limited size, JSON of limited depth.

Pipes and devices can block for ever: they are never opened.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from compressor.errors import UserError

#: Levels of a JSON file; models and reports have fewer than ten.
MAX_DEPTH = 64
MIB = 1 << 20

_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def special_kind(path: str | Path) -> str | None:
    """Kind of a special file, such as "a pipe (FIFO)", links followed; None if regular or missing."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def check_regular(path: str | Path, limit: int | None = None) -> None:
    """Refuse a special or large file without opening it; a missing one passes.

    Raises:
        UserError: special, a folder, or more than `limit` bytes.
    """
    kind = special_kind(path)
    if kind is not None:
        raise UserError(f"{path} is {kind}, not a regular file, so it is not read")
    if limit is not None and (size := _size(path)) > limit:
        raise UserError(f"{path} has {size / MIB:.1f} MiB, and more than {limit / MIB:g} MiB are not read")


def read_text(path: str | Path, limit: int) -> str:
    """The text of a UTF-8 file.

    Raises:
        UserError: special, or more than `limit` bytes.
        OSError: missing or unreadable.
        UnicodeDecodeError: not UTF-8.
    """
    check_regular(path, limit)
    with open(path, "rb") as file:
        # It may have grown since, or report no size.
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path} has more than {limit / MIB:g} MiB, which are not read")
    return content.decode("utf-8")


def read_json(path: str | Path, limit: int) -> Any:
    """Values of a JSON file, None for NaN and infinity.

    Raises:
        UserError, OSError: see `read_text`.
        ValueError: not JSON, not UTF-8, or deeper than `MAX_DEPTH`.
    """
    text = read_text(path, limit)
    try:
        values = json.loads(text, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check_depth(values)
    return values


def _check_depth(values: Any) -> None:
    """Check level by level: recursion has its own limit."""
    level = [values] if _is_container(values) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [value for items in inner for value in items if _is_container(value)]
    raise ValueError(_too_deep())


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list)


def _too_deep() -> str:
    return f"its lists and objects are nested deeper than {MAX_DEPTH} levels"


def _size(path: str | Path) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0
