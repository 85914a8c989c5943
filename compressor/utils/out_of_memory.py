"""Memory of this process: limits and failed allocations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Parts of messages of libraries that allocate in C, C++ or Rust.
_MESSAGES = (
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
    # The linker's, loading a library.
    "failed to map segment",
    "os error 12",
    # A thread has a stack.
    "can't start new thread",
)
#: The requested size in a message: "tried to allocate 24 bytes", "Unable to allocate 7.4 GiB".
_REQUESTED_SIZE = re.compile(r"allocate (\d[\d.,]* ?[KMGTP]i?B)\b|allocate (\d+)|allocation of (\d+)", re.IGNORECASE)
#: A cgroup without a limit reports the largest multiple of a page, which is more than this.
_UNLIMITED = 1 << 60
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True)
class Memory:
    """Bytes of memory; None if unknown.

    Attributes:
        total: least of the machine's memory and all limits.
        free: least left by them.
        limits: {name: bytes}, if below the machine's.
    """

    total: int | None
    free: int | None
    limits: dict[str, int]


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception or a cause means that memory ran out."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, OSError | RuntimeError | ImportError) and _is_memory_message(str(error)):
            return True
        # ONNX Runtime's exceptions have no class in common.
        if type(error).__module__.startswith("onnxruntime") and _is_memory_message(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def describe_out_of_memory(error: BaseException) -> str:
    """One line: requested and free memory, and a remedy."""
    size = _requested(error)
    wanted = f"{size} more were asked for" if size else "more was asked for than there is"
    memory = available_memory()
    left = "" if memory.free is None else f", and {format_bytes(memory.free)} are free"
    whole = "" if memory.total is None else f" of {format_bytes(memory.total)}"
    limits = "".join(f"; {name} allows {format_bytes(size)}" for name, size in memory.limits.items())
    return (
        f"out of memory: {wanted}{left}{whole}{limits}: use smaller batches (--batch-size, calibration.batch_size in a "
        f"recipe) or fewer calibration samples (--samples), or give this process more memory"
    )


def available_memory(root: Path = Path("/")) -> Memory:
    """Memory within machine, cgroup and `ulimit`; tests set `root`."""
    total, free = _machine(root)
    limits = [*_cgroup(root), *_ulimit(root)]
    return Memory(
        min((size for size in (total, *(limit for _, limit, _ in limits)) if size is not None), default=None),
        min((size for size in (free, *(left for _, _, left in limits)) if size is not None), default=None),
        {name: limit for name, limit, _ in limits if total is None or limit < total},
    )


def format_bytes(size: float) -> str:
    """Bytes with a unit, such as "1.5 GiB"."""
    unit = 0
    while abs(size) >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def _is_memory_message(text: str) -> bool:
    return any(part in text.lower() for part in _MESSAGES)


def _requested(error: BaseException | None) -> str | None:
    """The size in a message, if any."""
    while error is not None:
        if match := _REQUESTED_SIZE.search(str(error)):
            written, *plain = match.groups()
            return written or format_bytes(int(next(number for number in plain if number)))
        error = error.__cause__ or error.__context__
    return None


def _machine(root: Path) -> tuple[int | None, int | None]:
    """Bytes of the machine, and bytes free or cached."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        return sizes["MemTotal"], sizes.get("MemAvailable", sizes.get("MemFree"))
    except (OSError, ValueError, KeyError, IndexError):
        return _pages("SC_PHYS_PAGES"), _pages("SC_AVPHYS_PAGES")


def _pages(name: str) -> int | None:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _cgroup(root: Path) -> Iterator[tuple[str, int, int]]:
    """(name, limit, bytes left) of the narrowest cgroup, version 1 or 2."""
    for folder, limit, used in _cgroup_files(root):
        allowed, held = _number(folder / limit), _number(folder / used)
        if allowed is not None and allowed < _UNLIMITED:
            yield "the cgroup", allowed, max(allowed - (held or 0) + _reclaimable(folder / "memory.stat"), 0)
            return


def _cgroup_files(root: Path) -> Iterator[tuple[Path, str, str]]:
    """(folder, limit file, use file) of the cgroups, narrowest first."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    folders: list[tuple[Path, str, str]] = []
    for line in lines:
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        if named and not controllers:
            folders += _upwards(root / "sys/fs/cgroup", path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes"
            folders += _upwards(root / "sys/fs/cgroup/memory", path, *names)
    yield from sorted(folders, key=lambda entry: _number(entry[0] / entry[1]) or _UNLIMITED)


def _upwards(base: Path, name: str, limit: str, used: str) -> list[tuple[Path, str, str]]:
    """A cgroup's folder and its parents; in a container only `base`, mounted as root."""
    folder = base / name.strip("/")
    return [(path, limit, used) for path in (folder, *folder.parents) if path == base or base in path.parents]


def _number(path: Path) -> int | None:
    """The number in a file, if any."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _reclaimable(path: Path) -> int:
    """Bytes of a cgroup's cached files."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        values = {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}
    except (OSError, ValueError):
        return 0
    return values.get("total_inactive_file", values.get("inactive_file", 0))


def _ulimit(root: Path) -> Iterator[tuple[str, int, int]]:
    """(name, limit, bytes left) of every limit set."""
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
    """{system's name: bytes} of the address space."""
    try:
        lines = (root / "proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
