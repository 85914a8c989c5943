"""An output claimed by one process: apart from inputs, locked, cleaned."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from compressor.errors import UserError
from compressor.models.builtin import cache_folder
from compressor.pipeline.output.apart import Input, check_apart
from compressor.utils import distributed
from compressor.utils.files import whole_path
from compressor.utils.scratch import tidy

#: Called with a line for the user.
Remark = Callable[[str], None]


@contextmanager
def claimed(
    output: str | Path, inputs: Iterable[Input], *, more: Sequence[Path] = (), remark: Remark | None = None
) -> Iterator[None]:
    """Hold an output in the block; of processes launched together the first holds it.

    Args:
        more: other outputs, not locked.
        remark: called with a line on a killed process's remains.

    Raises:
        UserError: overlap with an input, or another process that writes.
    """
    places = [whole_path(path) for path in (output, *more)]
    inputs = list(inputs)
    for place in places:
        check_apart(place, inputs)
    if not distributed.is_main_process():
        yield
        return
    with _locked(places[0]):
        for place in places:
            for line in tidy(place):
                if remark:
                    remark(f"note: {line}")
        yield


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Raises: UserError: another process holds the lock."""
    # In the cache: the output's folder may be read-only.
    name = hashlib.sha256(os.path.realpath(output).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    folder = _lock_folder()
    holder = folder / f"{name}.json"
    try:
        held = FileLock(folder / f"{name}.lock").acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{output} is being written by {_name(holder)}: wait for it, or choose another output"
        ) from None
    except OSError:
        # No locks in this file system; outputs are still whole or missing.
        yield
        return
    with held:
        with suppress(OSError):
            holder.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}), encoding="utf-8")
        try:
            yield
        finally:
            with suppress(OSError):
                holder.unlink(missing_ok=True)


def _lock_folder() -> Path:
    """Folder for locks: the cache, else a temporary one."""
    folder = cache_folder() / "locks"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    folder = Path(tempfile.gettempdir(), f"compressor-locks-{os.getuid() if hasattr(os, 'getuid') else 'all'}")
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
    return folder


def _name(holder: Path) -> str:
    try:
        about = json.loads(holder.read_text(encoding="utf-8"))
        host = about["host"]
        return f"process {about['pid']}" + (f" on {host}" if host != platform.node() else "")
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
