"""Output folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import UserError


def check_output(output: str | Path, force: bool = False) -> None:
    """Refuse an output folder that cannot or must not be written, before any work is done.

    Raises:
        UserError: it exists and `force` is off; it is a file; it holds the home or the working folder; or its
            parent is not a folder that can be written.
    """
    output = Path(output).expanduser().absolute()
    if output.exists() or output.is_symlink():
        if not force:
            raise UserError(f"{output} exists already: choose another output, or replace it with --force")
        if output.is_symlink() or not output.is_dir():
            raise UserError(f"{output} is not a folder, so it is not replaced: choose another output")
        inside = {Path.cwd(), Path.home(), *Path.cwd().parents, *Path.home().parents}
        if output.resolve() in {path.resolve() for path in inside}:
            raise UserError(f"{output} holds the home or the working folder and is not replaced: choose another")
    parent = next(path for path in output.parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {output}: {parent} is not a folder that can be written to")


@contextmanager
def atomic_directory(output: str | Path, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `output` that becomes `output` when the block ends well.

    Whatever ends the block early, a keyboard interrupt too, removes the temporary folder and leaves an older output
    untouched.  With `force` the older output is replaced at the very end.

    Raises:
        UserError: `check_output` refuses; or the finished folder cannot be moved into place, in which case it is kept
            where it is and the line says where.
    """
    output = Path(output).expanduser().absolute()
    check_output(output, force)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error}") from None
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # mkdtemp makes folders that only their owner can read.
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    try:
        _move(folder, output, force)
    except OSError as error:
        raise UserError(f"cannot move the finished result to {output} ({error}): it is kept in {folder}") from None


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write a text file beside its place and rename it: however the process ends, it is the old one or the new one."""
    half = Path(path).with_name(f".{Path(path).name}.partial")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)


def _move(folder: Path, output: Path, force: bool) -> None:
    if not (force and output.exists()):
        folder.rename(output)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=output.parent))
    output.rename(old / output.name)
    try:
        folder.rename(output)
    except OSError:
        (old / output.name).rename(output)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
