"""Files of a data folder, links followed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from compressor.errors import UserError
from compressor.utils.input_files import check_regular

IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".jp2", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf")
#: Most folders that are read again, through links: links can lead to a few folders on endless ways.
_MOST_REPEATS = 10_000


def walk(root: Path, wanted: Collection[str]) -> Iterator[Path]:
    """Visible files whose names end with `wanted` below a folder, files before subfolders.

    Links are followed, except to a folder that holds them.

    Raises:
        UserError: a pipe, socket or device; a link that leads nowhere; a name that is not UTF-8; an unreadable folder.
    """
    seen: set[tuple[int, int]] = set()
    repeats = 0
    waiting = [(root, frozenset[tuple[int, int]]())]
    while waiting:
        folder, above = waiting.pop()
        identity = _identity(folder)
        if identity in above:
            continue
        repeats += identity in seen
        if repeats > _MOST_REPEATS:
            raise UserError(
                f"the links in {root} lead to the same folders more than {_MOST_REPEATS} times: remove some"
            )
        seen.add(identity)
        files, folders = _entries(folder, wanted)
        yield from files
        waiting += [(inner, above | {identity}) for inner in reversed(folders)]


def check_link(path: str | Path) -> None:
    """Refuse a link that leads nowhere.

    Raises:
        UserError: it does.
    """
    if os.path.islink(path) and not os.path.exists(path):
        raise UserError(f"{path} is a link to {os.readlink(path)}, which cannot be reached: mend or remove it")


def check_name(path: str) -> None:
    """Refuse a path that is no text: tables cannot hold it.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise UserError(f"the name {shown} is not UTF-8: rename it") from None


def is_hidden(name: str) -> bool:
    """Whether a folder of this name is left out."""
    return name.startswith((".", "__"))


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None
    return status.st_dev, status.st_ino


def _entries(folder: Path, wanted: Collection[str]) -> tuple[list[Path], list[Path]]:
    """Files whose names end with `wanted`, and folders."""
    files: list[Path] = []
    folders: list[Path] = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            check_link(path)
        if entry.is_dir():
            if not is_hidden(entry.name):
                check_name(entry.path)
                folders.append(path)
        elif entry.name.lower().endswith(tuple(wanted)):
            check_name(entry.path)
            # False for links to special files too.
            if not entry.is_file():
                check_regular(path)
            files.append(path)
    return files, folders
