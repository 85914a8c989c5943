"""Checksums of a folder's files, to recognise damaged ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.utils.strict_json import json_text

#: {path below the folder, with slashes: hex digits}.
Checksums = Mapping[str, str]
_CHECKSUM = "checksum"
#: Bytes of a checksum: against accidents, not attackers.
_BYTES = 16


def file_checksum(path: Path) -> str:
    """Checksum of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_BYTES)).hexdigest()


def folder_checksums(folder: Path, *names: str) -> dict[str, str]:
    """Checksums of all regular files below `names`, files or folders in `folder`; without names, of all."""
    places = [folder / name for name in names] if names else [folder]
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))]
    return {file.relative_to(folder).as_posix(): file_checksum(file) for file in files if file.is_file()}


def first_damage(folder: Path, checksums: Checksums) -> str | None:
    """A line on the first file that is not as it was; None if all are."""
    for name, checksum in checksums.items():
        try:
            if file_checksum(folder / name) != checksum:
                return f"{name} is damaged"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with their checksum."""
    return {**values, _CHECKSUM: _of_values(values)}


def is_broken(values: Mapping[str, Any]) -> bool:
    """Whether sealed values changed; unsealed ones pass."""
    if _CHECKSUM not in values:
        return False
    return bool(values[_CHECKSUM] != _of_values({key: value for key, value in values.items() if key != _CHECKSUM}))


def _of_values(values: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json_text(values).encode(), digest_size=_BYTES).hexdigest()
