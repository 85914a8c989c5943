"""This machine and installation, and their problems."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from huggingface_hub import constants
from packaging.requirements import Requirement

from compressor.bench.latency import available_threads
from compressor.models.builtin import cache_folder
from compressor.pipeline.environment import environment
from compressor.utils.out_of_memory import Memory, available_memory, format_bytes
from compressor.version import __version__
from compressor.wording import quote

#: Disk space for a run with a small model and its data.
_LEAST_FREE = 2 << 30
#: Memory for such a run, libraries included.
_LEAST_MEMORY = 1 << 30


def examine_machine() -> dict[str, Any]:
    """Examine this machine and installation.

    Returns:
        JSON-ready: version, environment, requirements {name: version or None}, devices, threads, memory, caches,
        offline, and problems, a line each.
    """
    requirements = list(_requirements())
    caches = [_cache(*entry) for entry in _caches()]
    memory = available_memory()
    return {
        "version": __version__,
        "environment": environment(),
        "requirements": {requirement.name: _version(requirement.name) for requirement in requirements},
        "devices": _devices(memory.total),
        "threads": {
            "cores": available_threads(),
            "torch": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "memory": asdict(memory),
        "caches": caches,
        "offline": constants.HF_HUB_OFFLINE,
        "problems": [
            *_unmet(requirements),
            *_thread_problems(available_threads()),
            *_memory_problems(memory),
            *_cache_problems(caches),
        ],
    }


def _requirements() -> Iterator[Requirement]:
    """The package's requirements with extras, if installed."""
    try:
        lines = requires("compressor") or []
    except PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}) or marker.evaluate({"extra": "plots"}):
            yield requirement


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _unmet(requirements: list[Requirement]) -> Iterator[str]:
    for need in requirements:
        installed, optional = _version(need.name), need.marker is not None and "extra" in str(need.marker)
        if installed is None and not optional:
            yield f"{need.name} is missing: pip install '{need.name}{need.specifier}'"
        elif installed is not None and not need.specifier.contains(installed, prereleases=True):
            yield f"{need.name} {installed} does not fit {need.specifier}: pip install '{need.name}{need.specifier}'"


def _devices(memory: int | None) -> list[dict[str, Any]]:
    """Devices of torch, and ONNX Runtime's providers."""
    devices: list[dict[str, Any]] = [{"name": "cpu", "what": environment()["cpu"], "bytes": memory}]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        devices.append({"name": f"cuda:{index}", "what": card.name, "bytes": card.total_memory})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "what": "Apple GPU", "bytes": None})
    providers = ", ".join(onnxruntime.get_available_providers())
    return [*devices, {"name": "ONNX Runtime", "what": providers, "bytes": None}]


def _caches() -> list[tuple[str, str, Path]]:
    """(content, environment variable, path) of caches."""
    from datasets import config

    return [
        ("built-in teachers", "COMPRESSOR_CACHE", cache_folder()),
        ("models of the Hub", "HF_HUB_CACHE", Path(constants.HF_HUB_CACHE)),
        ("datasets", "HF_DATASETS_CACHE", Path(config.HF_DATASETS_CACHE)),
    ]


def _cache(what: str, variable: str, path: Path) -> dict[str, Any]:
    path = path.expanduser().absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return {
        "what": what,
        "variable": variable,
        "path": str(path),
        "bytes": sum(_sizes(path)),
        "free": shutil.disk_usage(existing).free,
        "writable": existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
    }


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes of each file in a folder, without links."""
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue


def _thread_problems(cores: int) -> Iterator[str]:
    """What is wrong with the number of threads that the environment gives."""
    given = os.environ.get("OMP_NUM_THREADS", "").strip()
    # OpenMP takes a list too, one number a level of nested loops.
    first = given.partition(",")[0]
    if given and not (first.isdecimal() and int(first) > 0):
        yield f"OMP_NUM_THREADS is {quote(given)}, which is no number of threads: set it to 1 or more, or unset it"
    elif given and int(first) > cores:
        yield f"OMP_NUM_THREADS is {first} and this process has {cores} cores: more threads than cores slow it down"


def _memory_problems(memory: Memory) -> Iterator[str]:
    if memory.free is not None and memory.free < _LEAST_MEMORY:
        limits = "".join(f"; {name} allows {format_bytes(size)}" for name, size in memory.limits.items())
        yield f"{format_bytes(memory.free)} of memory are free for this process, and a small run needs 1 GiB{limits}"


def _cache_problems(caches: list[dict[str, Any]]) -> Iterator[str]:
    for cache in caches:
        if not cache["writable"]:
            yield f"the cache of {cache['what']} cannot be written: {cache['path']} (moved by ${cache['variable']})"
        elif cache["free"] < _LEAST_FREE:
            yield (
                f"{cache['free'] / 1e9:.1f} GB are free for the cache of {cache['what']} in {cache['path']}: "
                f"make room, or move it with ${cache['variable']}"
            )
