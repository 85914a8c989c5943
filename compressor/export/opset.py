"""Versions of ONNX's operations (opsets)."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from compressor.errors import UnsupportedError, UserError


class OpsetError(UnsupportedError):
    """An opset that does not do for a model."""


#: The first opset whose files ONNX Runtime promises to run.
FIRST = 7


def check_opset(opset: int | None) -> None:
    """Refuse an opset that onnx or ONNX Runtime does not know here; None is torch's own.

    Raises:
        UserError: names the opsets that can be written and run.
    """
    if opset is None:
        return
    last = last_opset()
    if FIRST <= opset <= last:
        return
    raise UserError(
        f"opset {opset} cannot be written and run here: onnx {onnx.__version__} and ONNX Runtime "
        f"{onnxruntime.__version__} know {FIRST} to {last}"
    )


def last_opset() -> int:
    """The newest opset that onnx can describe and ONNX Runtime runs."""
    return next(opset for opset in range(onnx.defs.onnx_opset_version(), 0, -1) if _runs(opset))


def opset_of(path: Path) -> int:
    """The opset of a file."""
    graph = onnx.load(path, load_external_data=False)
    return next(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))


def _runs(opset: int) -> bool:
    """Whether ONNX Runtime takes a file of one operation of that opset."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", ends[:1], ends[1:])
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    try:
        onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.NotImplemented):
        return False
    return True
