"""Checks of a table before reading."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO

import numpy as np

from compressor.data.files.packed_files import (
    BINARY,
    DATA_FORMATS,
    PLAIN,
    UNPACKING_ERRORS,
    data_suffix,
    is_packed,
    open_unpacked,
)
from compressor.errors import UserError
from compressor.utils.input_files import MIB, check_regular
from compressor.utils.out_of_memory import format_bytes

#: Lines of this length are read, of twice this length never: memory holds several copies.
LINE_BYTES = 32 * MIB
#: The same for plain text: some corpora are one line (text8 has 95 MiB).
TEXT_BYTES = 128 * MIB
#: Nesting of a JSON line: parsers crash at ten thousand levels.
MAX_LINE_DEPTH = 256
#: Columns of a table, by separators in its first line.
MAX_COLUMNS = 10_000
_SEPARATORS = {".csv": b",", ".tsv": b"\t", ".jsonl": b'":', ".ndjson": b'":'}
#: Bytes of a compressed file once unpacked.
UNPACKED_BYTES = 4096 * MIB
#: Bytes read at once in search of a line end.
_CHUNK = 1 << 16
#: Bytes other than brackets; change of the level by each byte.
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LEVEL_CHANGES = np.array([{"[": 1, "{": 1, "]": -1, "}": -1}.get(chr(i), 0) for i in range(256)])
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
#: First bytes of compressed files, which may unpack to any size.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "lz4",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}


def check_table(file: Path) -> None:
    """Refuse a table that is too costly to read; reads little of it.

    Raises:
        UserError: special or damaged file, compressed without a suffix that says so, long lines, deep nesting or many
            columns.
    """
    check_regular(file)
    try:
        with open_unpacked(file) as content:
            first = content.read(8)
            compression = next((name for magic, name in _COMPRESSED.items() if first.startswith(magic)), None)
            if compression is not None:
                raise UserError(f"{file} is compressed ({compression}): unpack it first")
            if is_packed(file):
                _check_unpacked(content, file)
            _check_content(content, file, data_suffix(file))
    except UNPACKING_ERRORS as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None


def _check_unpacked(content: IO[bytes], file: Path) -> None:
    """Refuse a small file that is very large once unpacked."""
    size = 0
    while chunk := content.read(_CHUNK):
        size += len(chunk)
        if size > UNPACKED_BYTES:
            raise UserError(f"{file} unpacks to more than {format_bytes(UNPACKED_BYTES)}: unpack it first")


def _check_content(content: IO[bytes], file: Path, suffix: str) -> None:
    if suffix in BINARY:
        return
    if suffix == ".json":
        # Read whole.
        if content.seek(0, os.SEEK_END) > TEXT_BYTES:
            raise UserError(f"{file} has more than {TEXT_BYTES // MIB} MiB: write it as .jsonl, an object in each line")
    else:
        _check_lines(content, file, TEXT_BYTES if suffix == PLAIN else LINE_BYTES)
    _check_columns(content, file, suffix)
    # Brackets in strings need not match: if deep, count again without them.
    if DATA_FORMATS[suffix] == "json" and _is_deep(content, strings=True) and _is_deep(content, strings=False):
        raise UserError(f"{file} has lists and objects that are nested deeper than {MAX_LINE_DEPTH} levels")


def _check_lines(content: IO[bytes], file: Path, window: int) -> None:
    """Refuse a `window` of bytes without line end."""
    size = content.seek(0, os.SEEK_END)
    for start in range(0, size - window + 1, window):
        content.seek(start)
        chunks = (content.read(_CHUNK) for _ in range(0, window, _CHUNK))
        if not any(b"\n" in chunk for chunk in chunks):
            raise UserError(f"{file} has a line of more than {window // MIB} MiB: a line is a sample, so break it")


def _check_columns(content: IO[bytes], file: Path, suffix: str) -> None:
    """Refuse very many columns: each costs a feature and a buffer."""
    separator = _SEPARATORS.get(suffix)
    if separator is None:
        return
    content.seek(0)
    # A string becomes two quotes, so that the separator after a key still matches.
    count = _STRING.sub(b'""', content.readline()).count(separator) + 1
    if count > MAX_COLUMNS:
        raise UserError(f"{file} has some {count} columns, more than {MAX_COLUMNS}")


def _is_deep(content: IO[bytes], *, strings: bool) -> bool:
    """Whether brackets nest deeper than `MAX_LINE_DEPTH`; `strings` counts those inside strings."""
    content.seek(0)
    level = 0
    # Whole lines: strings end within a line.
    while lines := content.readlines(MIB):
        part = b"".join(lines)
        brackets = (part if strings else _STRING.sub(b"", part)).translate(None, _NO_BRACKETS)
        # Closing brackets in strings must not lower the level below 0.
        levels = np.concatenate([[level], level + np.cumsum(_LEVEL_CHANGES[np.frombuffer(brackets, np.uint8)])])
        levels -= np.minimum(np.minimum.accumulate(levels), 0)
        if levels.max() > MAX_LINE_DEPTH:
            return True
        level = int(levels[-1])
    return False
