"""Output files and folders: checked early, written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp

from compressor.errors import UserError
from compressor.utils.scratch import finish, keep, scratch

#: Raises `UserError` if a folder that exists must not be replaced.
Check = Callable[[Path], None]
_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: Parts of messages of libraries that write in C++ or Rust.
_DISK_FULL_MESSAGES = (
    "No space left",
    "os error 28",
    "File too large",
    "os error 27",
    "Disk quota exceeded",
    "PytorchStreamWriter",
    "inline_container.cc",
)


def whole_path(path: str | Path) -> Path:
    """The absolute path, without a final `..`."""
    path = Path(path).expanduser().absolute()
    if path.name in ("", ".."):
        return path.resolve()
    return path.parent.resolve() / path.name if ".." in path.parts else path


def work_folder(output: str | Path) -> Path:
    """The folder next to an output to resume from."""
    output = whole_path(output)
    return output.with_name(output.name + ".work")


def check_output(output: str | Path, replaceable: Check | None = None) -> None:
    """Refuse an output folder that cannot or must not be written.

    Args:
        replaceable: refuses some existing folders; None refuses all.

    Raises:
        UserError: a refused folder, a file, a link, a folder around home or working folder, or an unwritable parent.
    """
    output = whole_path(output)
    if os.path.lexists(output):
        if replaceable is None:
            raise UserError(f"{output} exists already: choose another output, or replace it with --force")
        if output.is_symlink() or not output.is_dir():
            raise UserError(f"{output} is not a folder, so it is not replaced: choose another output")
        inside = {Path.cwd(), Path.home(), *Path.cwd().parents, *Path.home().parents}
        if output.resolve() in {path.resolve() for path in inside}:
            raise UserError(f"{output} holds the home or the working folder and is not replaced: choose another")
        replaceable(output)
    _check_parent(output)


def check_file(path: Path, force: bool, *, parents: bool = False) -> Path:
    """Refuse an output file that cannot or must not be written; its path.

    Args:
        parents: a missing folder is no error.

    Raises:
        UserError: a file without `force`, a special file, or a missing or unwritable folder.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} is not a plain file, so it is not replaced: choose another name")
    if path.exists() and not force:
        raise UserError(f"{path} exists already: choose another name, or replace it with --force")
    if not parents and not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    _check_parent(path.absolute())
    return path


def _check_parent(path: Path) -> None:
    parent = next(parent for parent in path.parents if os.path.lexists(parent))
    try:
        # Permissions do not tell all: some file systems (/proc) refuse even root.
        os.rmdir(mkdtemp(prefix=".compressor-", dir=parent))
    except OSError:
        raise UserError(f"cannot write {path}: {parent} is not a folder that can be written to") from None


@contextmanager
def atomic_directory(output: str | Path, replaceable: Check | None = None) -> Iterator[Path]:
    """A temporary folder that becomes `output` at the end; an exception removes it and keeps an older output.

    Raises:
        UserError: see `check_output`; or the move failed, and the line names the kept folder.
    """
    output = whole_path(output)
    check_output(output, replaceable)
    with ExitStack() as stack:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            place = stack.enter_context(scratch(output))
            folder = place / output.name
            folder.mkdir()
        except OSError as error:
            raise UserError(f"cannot write {output}: {error}") from None
        yield folder
        finish(place)
        try:
            _move(folder, output, replaceable)
        except (OSError, UserError) as error:
            keep(place)
            raise UserError(f"cannot move the finished result to {output} ({error}): it is kept in {folder}") from None


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically: it is always the old or the new one."""
    path = Path(path)
    with scratch(path) as folder:
        (folder / path.name).write_text(text, encoding="utf-8")
        os.replace(folder / path.name, path)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception or a cause means a full disk."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        if isinstance(error, OSError) and error.errno in _DISK_FULL_ERRNOS:
            return True
        if any(text in str(error) for text in _DISK_FULL_MESSAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def disk_full_as_user_error(place: str | Path) -> Iterator[None]:
    """Turn a full disk into a `UserError` that names `place`, such as "to the folder student"."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise UserError(f"no space left on the device to write {place}: free some, or choose another place") from error


def _move(folder: Path, output: Path, replaceable: Check | None) -> None:
    # Hours may have passed since the last check.
    check_output(output, replaceable)
    if not output.exists():
        folder.rename(output)
        return
    with scratch(output, "old") as place:
        old = place / output.name
        output.rename(old)
        try:
            folder.rename(output)
        except BaseException:
            # If this fails too, the old output stays in its scratch folder.
            finish(place)
            old.rename(output)
            raise
