"""Versions and machine of a run."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

#: {report key: distribution}.
_PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "datasets": "datasets",
    "numpy": "numpy",
    "pot": "POT",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
}


def environment() -> dict[str, Any]:
    """Versions, platform, processor and threads of this process."""
    return {
        "python": platform.python_version(),
        **{key: _version(name) for key, name in _PACKAGES.items()},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
