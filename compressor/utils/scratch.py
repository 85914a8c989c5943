"""Temporary folders next to an output, marked and locked to recognise those of killed processes."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

#: The file that marks a scratch folder; its user holds a lock on it.
MARK = ".compressor-scratch"
#: The file that marks complete content, which is removed only on request.
_FINISHED = ".compressor-finished"


@contextmanager
def scratch(target: Path, kind: Literal["partial", "old"] = "partial") -> Iterator[Path]:
    """A folder `.NAME.*.KIND` next to `target`, removed at the end.

    It stays after `keep`, and after `finish` unless its content was moved away.

    Args:
        kind: partial while written, old while replaced.

    Raises:
        OSError: it cannot be made.
    """
    # Imported only now: not every command writes.
    from filelock import FileLock

    folder = Path(mkdtemp(prefix=f".{target.name}.", suffix=f".{kind}", dir=target.parent))
    lock = FileLock(folder / MARK)
    try:
        with lock.acquire(timeout=0):
            yield folder
    finally:
        if (folder / MARK).exists() and not _holds_finished(folder, target):
            shutil.rmtree(folder, ignore_errors=True)


def finish(folder: Path) -> None:
    """Mark the content as complete, to survive a kill."""
    (folder / _FINISHED).touch()


def keep(folder: Path) -> None:
    """Turn a scratch folder into an ordinary one."""
    (folder / _FINISHED).unlink(missing_ok=True)
    (folder / MARK).unlink(missing_ok=True)


def is_scratch(path: Path) -> bool:
    """Whether a path is a scratch folder."""
    return path.is_dir() and not path.is_symlink() and (path / MARK).is_file()


def tidy(target: Path) -> Iterator[str]:
    """Remove killed processes' scratch folders, and put back moved outputs; yields a line on each.

    Unmarked and busy folders stay.
    """
    from filelock import FileLock, Timeout

    named = re.compile(re.escape(f".{target.name}.") + r"\w{8}\.(partial|old)")
    for folder in sorted(target.parent.glob(f".{glob.escape(target.name)}.*")):
        if not named.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        if not is_scratch(folder):
            # A process killed before its mark left nothing else.
            with suppress(OSError):
                folder.rmdir()
            continue
        try:
            with FileLock(folder / MARK).acquire(timeout=0):
                line = _clean_up(folder, target)
        except (Timeout, OSError):
            continue
        yield line


def _clean_up(folder: Path, target: Path) -> str:
    """Put back, leave or remove an abandoned folder's content; a line on it."""
    inside = folder / target.name
    if folder.suffix == ".old" and os.path.lexists(inside) and not os.path.lexists(target):
        inside.rename(target)
        shutil.rmtree(folder, ignore_errors=True)
        return f"put {target} back, which a run had moved away when it was killed"
    if _holds_finished(folder, target):
        return f"{inside} is the finished result of a run that was killed: move it, or remove it by hand"
    shutil.rmtree(folder, ignore_errors=True)
    return f"removed {folder}, which a killed run had left"


def _holds_finished(folder: Path, target: Path) -> bool:
    return (folder / _FINISHED).exists() and os.path.lexists(folder / target.name)
