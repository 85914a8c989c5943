"""An output claimed by one process: apart from its inputs, locked, and without remains of killed processes."""

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
from compressor.pipeline.apart import Input, check_apart
from compressor.utils import distributed
from compressor.utils.files import whole_path
from compressor.utils.scratch import tidy

#: Called with a line for the user.
Remark = Callable[[str], None]


@contextmanager
def claimed(
    output: str | Path, inputs: Iterable[Input], *, more: Sequence[Path] = (), remark: Remark | None = None
) -> Iterator[None]:
    """Hold an output inside the block; of processes that were launched together the first one holds it.

    Args:
        output: is locked.
        inputs: of the command.
        more: other outputs.
        remark: called with a line about everything that a killed process left there.

    Raises:
        UserError: an output overlaps with an input, or another process is writing it.
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
    """Raises: UserError: another process holds the lock; it is named."""
    # In the cache: next to the output it would clutter, and there may be no right to write.
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
        # A file system without locks; outputs are still whole or missing.
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
    """A folder for locks: in the cache, or in the system's temporary folder if the cache cannot be written."""
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
