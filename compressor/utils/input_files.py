"""Bounded reading of files that users name: regular files only, of limited size, and JSON of limited depth.

Pipes and devices are never opened: reading one may take for ever.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from compressor.errors import UserError

#: Levels of lists and objects in a JSON file; those of models and reports have fewer than ten.
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
    """The kind of a path that is no regular file, such as "a pipe (FIFO)"; None for a regular file or a missing one.

    Links are followed; nothing is opened.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def check_regular(path: str | Path, limit: int | None = None) -> None:
    """Refuse a path that is no regular file; nothing is opened, and a missing file is no error here.

    Args:
        path: to be read.
        limit: most bytes.

    Raises:
        UserError: it is a pipe, a socket, a device or a folder, or exceeds the limit.
    """
    kind = special_kind(path)
    if kind is not None:
        raise UserError(f"{path} is {kind}, not a regular file, so it is not read")
    if limit is not None and (size := _size(path)) > limit:
        raise UserError(f"{path} has {size / MIB:.1f} MiB, and more than {limit / MIB:g} MiB are not read")


def read_text(path: str | Path, limit: int) -> str:
    """The text of a UTF-8 file.

    Args:
        path: a regular file.
        limit: most bytes.

    Raises:
        UserError: it is no regular file, or exceeds the limit.
        OSError: it is missing or cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    check_regular(path, limit)
    with open(path, "rb") as file:
        # It may have grown since, or report no size.
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path} has more than {limit / MIB:g} MiB, which are not read")
    return content.decode("utf-8")


def read_json(path: str | Path, limit: int) -> Any:
    """The values of a JSON file; None for NaN and infinity, which JSON does not have but Python writes.

    Args:
        path: a regular file.
        limit: most bytes.

    Raises:
        UserError: as `read_text`.
        OSError: as `read_text`.
        ValueError: it is not JSON, not UTF-8, or nested deeper than `MAX_DEPTH` levels.
    """
    text = read_text(path, limit)
    try:
        values = json.loads(text, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check_depth(values)
    return values


def _check_depth(values: Any) -> None:
    """Level by level, since recursion has a limit of its own."""
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
