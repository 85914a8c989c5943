"""What is asked of a file of samples before it is read: a regular file, not compressed, with bounded lines."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from compressor.errors import UserError
from compressor.utils.input_files import MIB, check_regular

#: No line that is longer than twice this is read, and every shorter one than this is: a line is held as a whole,
#: several times over.
LINE_BYTES = 32 * MIB
#: The same for plain text, which is one line in some corpora (text8 has 95 MiB).
TEXT_BYTES = 128 * MIB
#: Levels of lists and objects in JSON: its parsers crash at some ten thousand.
MAX_DEPTH = 256
#: Columns of a table, by its first line, and what stands between two of them.
MAX_COLUMNS = 10_000
_BETWEEN = {".csv": b",", ".tsv": b"\t", ".jsonl": b'":'}
#: Bytes that are read at once while a line's end is looked for.
_CHUNK = 1 << 16
#: Bytes that are no brackets, and how a bracket changes the level.
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = np.array([{"[": 1, "{": 1, "]": -1, "}": -1}.get(chr(i), 0) for i in range(256)])
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
#: First bytes of what the reader of tables would unpack, to any size.
_PACKED = {
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
    """Refuse a file of samples that could not be read within bounds; little of it is read.

    Raises:
        UserError: it is no regular file, it is compressed, its lines are far too long or nested far too deeply, or its
            columns are far too many.
    """
    check_regular(file)
    suffix = file.suffix.lower()
    try:
        with file.open("rb") as content:
            first = content.read(8)
            packed = next((name for magic, name in _PACKED.items() if first.startswith(magic)), None)
            if packed is not None:
                raise UserError(f"{file} is compressed ({packed}): unpack it first")
            if suffix != ".parquet":
                _check_lines(content, file, TEXT_BYTES if suffix == ".txt" else LINE_BYTES)
            _check_columns(content, file)
            # Brackets in texts need not match: those of a file that seems deep are counted again without its texts.
            if suffix == ".jsonl" and _is_deep(content, texts=True) and _is_deep(content, texts=False):
                raise UserError(f"{file} has lists and objects that are nested deeper than {MAX_DEPTH} levels")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


def _check_lines(content: BinaryIO, file: Path, window: int) -> None:
    """Refuse a file with no line end in a whole window of that many bytes; only the start of a window is read."""
    size = content.seek(0, os.SEEK_END)
    for start in range(0, size - window + 1, window):
        content.seek(start)
        chunks = (content.read(_CHUNK) for _ in range(0, window, _CHUNK))
        if not any(b"\n" in chunk for chunk in chunks):
            raise UserError(f"{file} has a line of more than {window // MIB} MiB: a line is a sample, so break it")


def _check_columns(content: BinaryIO, file: Path) -> None:
    """Refuse a table of very many columns, each of which the reader has a feature, a buffer and a name for."""
    between = _BETWEEN.get(file.suffix.lower())
    if between is None:
        return
    content.seek(0)
    # A text between quotes becomes two quotes, so that the colon behind it is still one of a key.
    count = _TEXT.sub(b'""', content.readline()).count(between) + 1
    if count > MAX_COLUMNS:
        raise UserError(f"{file} has some {count} columns, more than {MAX_COLUMNS}")


def _is_deep(content: BinaryIO, *, texts: bool) -> bool:
    """Whether brackets of a JSON file are nested deeper than `MAX_DEPTH`, those inside of texts counted or not."""
    content.seek(0)
    level = 0
    # Whole lines: no text goes on from one to the next.
    while lines := content.readlines(MIB):
        part = b"".join(lines)
        brackets = (part if texts else _TEXT.sub(b"", part)).translate(None, _OTHERS)
        # Closing brackets of texts alone do not lower the level below that of the file.
        levels = np.concatenate([[level], level + np.cumsum(_STEPS[np.frombuffer(brackets, np.uint8)])])
        levels -= np.minimum(np.minimum.accumulate(levels), 0)
        if levels.max() > MAX_DEPTH:
            return True
        level = int(levels[-1])
    return False
