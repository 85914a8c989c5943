"""Temporary folders next to an output, marked and locked so that those of killed processes are recognised."""

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

#: The file that says that a folder is one of these; whoever uses the folder holds a lock on it.
MARK = ".compressor-scratch"
#: The file that says that what the folder holds is whole: it is never removed without being asked for.
_FINISHED = ".compressor-finished"


@contextmanager
def scratch(target: Path, kind: Literal["partial", "old"] = "partial") -> Iterator[Path]:
    """A folder `.NAME.*.KIND` beside `target`, which is removed when the block ends.

    It stays after `keep`, and after `finish` unless its content was moved away.

    Args:
        target: the output; its parent exists.
        kind: partial for an output being written, old for one being replaced.

    Raises:
        OSError: it cannot be made.
    """
    # Imported only now: commands that write nothing need not wait for it.
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
    """Mark the content of a scratch folder as complete, so that it survives if the process is killed."""
    (folder / _FINISHED).touch()


def keep(folder: Path) -> None:
    """Turn a scratch folder into an ordinary one."""
    (folder / _FINISHED).unlink(missing_ok=True)
    (folder / MARK).unlink(missing_ok=True)


def is_scratch(path: Path) -> bool:
    """Whether a path is a scratch folder."""
    return path.is_dir() and not path.is_symlink() and (path / MARK).is_file()


def tidy(target: Path) -> Iterator[str]:
    """Remove scratch folders of killed processes next to `target`, and put back outputs that they moved away.

    Folders without the mark, and those of living processes, stay.

    Yields:
        A line about each, for the user.
    """
    from filelock import FileLock, Timeout

    named = re.compile(re.escape(f".{target.name}.") + r"\w{8}\.(partial|old)")
    for folder in sorted(target.parent.glob(f".{glob.escape(target.name)}.*")):
        if not named.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        if not is_scratch(folder):
            # A process that was killed before it could leave its mark has left nothing else either.
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
    """Put back, leave or remove the content of an abandoned scratch folder; a line about it."""
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
