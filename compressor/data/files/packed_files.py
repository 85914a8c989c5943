"""Text files that may be compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

#: Suffix of a data file -> the builder of `datasets` for it.
DATA_FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".txt": "text",
}
#: Plain text; next to tables or images it is a note.
PLAIN = ".txt"
#: Binary formats: they compress themselves.
BINARY = (".parquet", ".arrow")
#: Suffix of a compressed file -> the function that opens it.
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
#: Suffixes of compressed files.
PACKED = tuple(_OPENERS)
#: Endings of the names of data files.
DATA_ENDINGS = (
    *DATA_FORMATS,
    *(f"{suffix}{packed}" for suffix in DATA_FORMATS if suffix not in BINARY for packed in PACKED),
)
#: What a damaged compressed file raises.
UNPACKING_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)


def data_suffix(file: Path) -> str:
    """Suffix of a data file in lower case, that of the compression left out; "" if it is none."""
    name = file.name.lower()
    ending = next((ending for ending in DATA_ENDINGS if name.endswith(ending)), "")
    return f".{ending.split('.')[1]}" if ending else ""


def is_packed(file: Path) -> bool:
    """Whether a file's name ends with the suffix of a compression."""
    return file.suffix.lower() in _OPENERS


def open_unpacked(file: Path, **options: Any) -> IO[Any]:
    """A data file opened for reading, in binary without other options.

    Raises:
        UNPACKING_ERRORS: here or while it is read.
    """
    opener = _OPENERS.get(file.suffix.lower(), open)
    return opener(file, **({"mode": "rb"} | options))
