"""How much memory a piece of work takes above what the process holds already, as Linux counts it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """What a piece of work took, once it is done.

    Attributes:
        bytes: the most memory above what was held at first; None where the system does not tell.
    """

    bytes: int | None = None


@contextmanager
def peak_above() -> Iterator[Peak]:
    """Measure the peak of resident memory within the context, above what was resident when it began."""
    found = Peak()
    gc.collect()
    try:
        # What was freed but not given back would hide as much of what is taken now.
        ctypes.CDLL(None).malloc_trim(0)
        _RESET.write_text("5", encoding="ascii")
        before = _resident("VmRSS")
    except (OSError, AttributeError):
        yield found
        return
    yield found
    found.bytes = max(0, _resident("VmHWM") - before)


def _resident(key: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
