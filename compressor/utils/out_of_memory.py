"""Memory: what this process may still have, and a failure to get more, told in one line whatever library met it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: How libraries that allocate in C, C++ or Rust say that they could not.
_SAYINGS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "failed to allocate memory",
    "out of memory",
    "unable to allocate",
    "enforce fail at alloc_cpu.cpp",
    "bad_alloc",
    "bad allocation",
    "memory allocation of",
    # The linker's, of a library that is loaded.
    "failed to map segment",
    "os error 12",
    # A thread has a stack.
    "can't start new thread",
)
#: Where a message says how many bytes were asked for: "tried to allocate 24 bytes", "Unable to allocate 7.4 GiB".
_ASKED = re.compile(r"allocate (\d[\d.,]* ?[KMGTP]i?B)\b|allocate (\d+)|allocation of (\d+)", re.IGNORECASE)
#: What a cgroup says where it has no limit is the largest multiple of a page; nothing has as much.
_UNLIMITED = 1 << 60
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True)
class Memory:
    """Bytes of memory; None where the system does not tell.

    Attributes:
        total: what this process may have in all: the least of the machine's and every limit's.
        free: what of it is left: the least of what the machine has and what every limit leaves.
        limits: {what limits this process: bytes it may have}; empty if nothing but the machine does.
    """

    total: int | None
    free: int | None
    limits: dict[str, int]


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or what it came from, means that memory could not be had."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, OSError | RuntimeError | ImportError) and _says_so(str(error)):
            return True
        # ONNX Runtime's exceptions have no class in common.
        if type(error).__module__.startswith("onnxruntime") and _says_so(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def describe_out_of_memory(error: BaseException) -> str:
    """What was asked for, what there is, and what to do, in one line."""
    asked = _asked(error)
    wanted = f"{asked} more were asked for" if asked else "more was asked for than there is"
    memory = available_memory()
    left = "" if memory.free is None else f", and {format_bytes(memory.free)} are free"
    whole = "" if memory.total is None else f" of {format_bytes(memory.total)}"
    limits = "".join(f"; {name} allows {format_bytes(size)}" for name, size in memory.limits.items())
    return (
        f"out of memory: {wanted}{left}{whole}{limits}: use smaller batches (--batch-size, calibration.batch_size in a "
        f"recipe) or fewer calibration samples (--samples), or give this process more memory"
    )


def available_memory(root: Path = Path("/")) -> Memory:
    """What this process may have: the machine's memory, its cgroup's and what `ulimit` leaves it.

    Args:
        root: of the file system that tells, for tests.
    """
    total, free = _machine(root)
    limits = [*_cgroup(root), *_ulimit(root)]
    return Memory(
        min((size for size in (total, *(limit for _, limit, _ in limits)) if size is not None), default=None),
        min((size for size in (free, *(left for _, _, left in limits)) if size is not None), default=None),
        {name: limit for name, limit, _ in limits if total is None or limit < total},
    )


def format_bytes(size: float) -> str:
    """Bytes in the largest unit of which there is one, such as "1.5 GiB"."""
    unit = 0
    while abs(size) >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def _says_so(text: str) -> bool:
    return any(saying in text.lower() for saying in _SAYINGS)


def _asked(error: BaseException | None) -> str | None:
    """What an allocator was asked for, if its message says so."""
    while error is not None:
        if match := _ASKED.search(str(error)):
            written, *plain = match.groups()
            return written or format_bytes(int(next(number for number in plain if number)))
        error = error.__cause__ or error.__context__
    return None


def _machine(root: Path) -> tuple[int | None, int | None]:
    """Bytes of the machine, and those that processes can still get: free, or of files that could be read again."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        return found["MemTotal"], found.get("MemAvailable", found.get("MemFree"))
    except (OSError, ValueError, KeyError, IndexError):
        return _pages("SC_PHYS_PAGES"), _pages("SC_AVPHYS_PAGES")


def _pages(name: str) -> int | None:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _cgroup(root: Path) -> Iterator[tuple[str, int, int]]:
    """(name, limit, what is left) of this process's cgroup and those above it, of version 1 or 2, that have a limit."""
    for folder, limit, used in _cgroup_files(root):
        allowed, held = _number(folder / limit), _number(folder / used)
        if allowed is not None and allowed < _UNLIMITED:
            yield "the cgroup", allowed, max(allowed - (held or 0) + _reclaimable(folder / "memory.stat"), 0)
            return


def _cgroup_files(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Folders that may limit memory, the narrowest limits first where several do; and the files that say so."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    found: list[tuple[Path, str, str]] = []
    for line in lines:
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        if named and not controllers:
            found += _upwards(root / "sys/fs/cgroup", path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes"
            found += _upwards(root / "sys/fs/cgroup/memory", path, *names)
    yield from sorted(found, key=lambda one: _number(one[0] / one[1]) or _UNLIMITED)


def _upwards(base: Path, path: str, limit: str, used: str) -> list[tuple[Path, str, str]]:
    """A cgroup's folder and all above it; in a container, whose own cgroup is mounted as the root, `base` alone."""
    folder = base / path.strip("/")
    return [(one, limit, used) for one in (folder, *folder.parents) if one == base or base in one.parents]


def _number(path: Path) -> int | None:
    """The number in a file; None if there is none, as in one that says "max"."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _reclaimable(path: Path) -> int:
    """Bytes that a cgroup holds of files and gives back when it needs them."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        found = {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}
    except (OSError, ValueError):
        return 0
    return found.get("total_inactive_file", found.get("inactive_file", 0))


def _ulimit(root: Path) -> Iterator[tuple[str, int, int]]:
    """(name, limit, what is left) of the limits of this process that are set."""
    try:
        import resource
    except ImportError:
        return
    held = _held(root)
    for flag, name, used in (("-v", "RLIMIT_AS", "VmSize"), ("-d", "RLIMIT_DATA", "VmData")):
        kind = getattr(resource, name, None)
        allowed = resource.RLIM_INFINITY if kind is None else resource.getrlimit(kind)[0]
        if allowed != resource.RLIM_INFINITY:
            yield f"ulimit {flag}", allowed, max(allowed - held.get(used, 0), 0)


def _held(root: Path) -> dict[str, int]:
    """Bytes of address space that this process has taken, by what the system calls them."""
    try:
        lines = (root / "proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
