"""Memory of this process, on every system."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

#: mallopt's parameter for the size from which allocations are mapped one by one, and that size.
_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 1 << 20


def peak_memory() -> int:
    """Peak memory of this process, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        # On Linux getrusage includes the process before exec.
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return _peak_elsewhere()


def _peak_elsewhere() -> int:
    try:
        import resource
    except ImportError:
        # Windows.
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def return_freed_memory() -> None:
    """Have glibc give freed tensors back to the system, large ones from now on at once; it keeps many otherwise."""
    try:
        library = ctypes.CDLL("libc.so.6")
        mallopt, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        # Another C library.
        return
    mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)
    # Small ones are kept nonetheless, and what was freed before: after passes over all weights as much as a teacher.
    trim(0)
