"""A full disk, told in one line whatever library met it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import UserError

_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: How libraries that write in C++ or Rust say it.
_SAYINGS = (
    "No space left",
    "os error 28",
    "File too large",
    "os error 27",
    "Disk quota exceeded",
    "PytorchStreamWriter",
    "inline_container.cc",
)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or what it came from, means that a file could not grow."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _ERRNOS:
            return True
        if any(saying in str(error) for saying in _SAYINGS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def disk_full_as_user_error(place: str | Path) -> Iterator[None]:
    """Turn whatever a full disk raises inside into one line.

    Args:
        place: where to, such as "to the folder student".

    Raises:
        UserError: there is no space left.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise UserError(f"no space left on the device to write {place}: free some, or choose another place") from error
