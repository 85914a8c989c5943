"""What a doctor found, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from compressor.bench.rows import MISSING


def render_doctor(found: Mapping[str, Any]) -> list[RenderableType]:
    """Versions, devices, threads and memory, caches, and what is wrong."""
    environment, threads, memory = found["environment"], found["threads"], found["memory"]
    versions = _table("package", "version")
    versions.add_row("compressor", found["version"])
    versions.add_row("python", f"{environment['python']} on {environment['platform']}")
    for name, version in found["requirements"].items():
        versions.add_row(name, version or f"{MISSING} (not installed)")
    devices = _table("device", "what", "GB")
    for device in found["devices"]:
        devices.add_row(device["name"], Text(device["what"]), _gigabytes(device["bytes"]))
    caches = _table("cache", "folder", "moved by", "GB", "GB free")
    for cache in found["caches"]:
        caches.add_row(
            cache["what"], Text(cache["path"]), cache["variable"], _gigabytes(cache["bytes"]), _gigabytes(cache["free"])
        )
    limits = "".join(f" ({name} allows {_gigabytes(size)} GB)" for name, size in memory["limits"].items())
    omp = threads["OMP_NUM_THREADS"]
    return [
        versions,
        devices,
        f"threads: {threads['torch']} of torch on {threads['cores']} cores (OMP_NUM_THREADS: {omp or 'not set'})",
        f"memory: {_gigabytes(memory['total'])} GB, {_gigabytes(memory['free'])} GB free{limits}",
        caches,
        "offline: " + ("yes, by HF_HUB_OFFLINE; the Hub is not asked" if found["offline"] else "no"),
        *(f"problem: {line}" for line in found["problems"]),
        *([] if found["problems"] else ["all is well; try: compress fuse --width 0.5 vit-a vit-b"]),
    ]


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for title in titles:
        number = title.startswith("GB")
        table.add_column(title, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def _gigabytes(size: int | None) -> str:
    return MISSING if size is None else f"{size / 1e9:.2f}"
