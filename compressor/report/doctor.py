"""`compress doctor` for a terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from compressor.bench.metrics import MISSING
from compressor.report.describe import Report
from compressor.report.tables import plain_table


def render_doctor(machine: Report) -> list[RenderableType]:
    """Versions, devices, memory, caches, problems."""
    environment, threads, memory = machine["environment"], machine["threads"], machine["memory"]
    versions = plain_table("package", "version")
    versions.add_row("compressor", machine["version"])
    versions.add_row("python", f"{environment['python']} on {environment['platform']}")
    for name, version in machine["requirements"].items():
        versions.add_row(name, version or f"{MISSING} (not installed)")
    devices = plain_table("device", "name", "GB", numbers=1)
    for device in machine["devices"]:
        devices.add_row(device["name"], Text(device["what"]), _gigabytes(device["bytes"]))
    caches = plain_table("cache", "folder", "variable", "GB", "GB free", numbers=2)
    for cache in machine["caches"]:
        caches.add_row(
            cache["what"], Text(cache["path"]), cache["variable"], _gigabytes(cache["bytes"]), _gigabytes(cache["free"])
        )
    limits = "".join(f" ({name} allows {_gigabytes(size)} GB)" for name, size in memory["limits"].items())
    omp = threads["OMP_NUM_THREADS"]
    return [
        versions,
        devices,
        f"threads: {threads['torch']} of torch and of ONNX Runtime on {threads['cores']} cores "
        f"(OMP_NUM_THREADS: {omp or 'not set'}; --threads of a command goes first)",
        f"memory: {_gigabytes(memory['total'])} GB, {_gigabytes(memory['free'])} GB free{limits}",
        caches,
        "offline: " + ("yes (HF_HUB_OFFLINE): the Hub is not used" if machine["offline"] else "no"),
        *(f"problem: {line}" for line in machine["problems"]),
        *([] if machine["problems"] else ["no problems; try: compress fuse --width 0.5 vit-a vit-b"]),
    ]


def _gigabytes(size: int | None) -> str:
    return MISSING if size is None else f"{size / 1e9:.2f}"
