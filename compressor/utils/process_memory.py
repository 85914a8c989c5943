"""Memory of this process, on every system."""

from __future__ import annotations

import sys
from pathlib import Path


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
