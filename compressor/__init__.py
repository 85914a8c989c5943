"""Fuse an ensemble of wide transformers into one narrow one by optimal transport.

The functions below are the stable Python interface.  They import heavy libraries when called, and raise `UserError` for
bad input.

Importing the package turns off the telemetry of libraries imported later (`compressor.utils.telemetry`).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from compressor.api.deliver import export, export_onnx
from compressor.api.finetune import distill, finetune
from compressor.api.fuse import fuse
from compressor.api.look import inspect, plan
from compressor.api.measure import bench, benchmark, evaluate
from compressor.errors import UserError
from compressor.utils.telemetry import disable_telemetry
from compressor.version import __version__

__all__ = [
    "UserError",
    "__version__",
    "bench",
    "benchmark",
    "distill",
    "evaluate",
    "export",
    "export_onnx",
    "finetune",
    "fuse",
    "inspect",
    "plan",
]

disable_telemetry()


class _Face(ModuleType):
    """Keeps the functions `bench` and `export` when folders of these names are imported, which sets them otherwise."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
