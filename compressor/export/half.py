"""Float16 ONNX files: conversion, and runs that round as float16 does."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from compressor.export.half_plan import HalfPlan, name_nodes
from compressor.export.half_ranges import tensors_of, with_types
from compressor.export.onnx import LARGEST_FILE
from compressor.export.quantise import quantiser_errors_as_one_line, without_inner_shapes
from compressor.export.runtime import Session

#: Operations whose result has a type of its own, whatever they read.
_OWN_TYPE = ("Cast", "Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform", "If", "Loop", "Scan")


def write_float16(source: Path, path: Path, plan: HalfPlan) -> None:
    """Convert weights and computation to float16, except the plan's operations; inputs and outputs stay float32.

    Saves size, not time, on a CPU: it has few float16 kernels.

    Raises:
        UnsupportedError: the converter refuses the graph.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with quantiser_errors_as_one_line(source, "convert"):
        model = without_inner_shapes(source)
        name_nodes(model)
        converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=sorted(plan.blocked))
        _drop_repeated_casts(converted)
        _join_float32(converted)
        ordered = OnnxModel(converted)
        # The converter appends its casts of the inputs after the nodes that read them.
        ordered.topological_sort()
        large = sum(part.stat().st_size for part in source.parent.glob(f"{source.name}*")) > LARGEST_FILE
        onnx.save(ordered.model, path, save_as_external_data=large, location=f"{path.name}.data")


def _drop_repeated_casts(model: ModelProto) -> None:
    """Keep one cast of a value that several float32 operations read: the converter adds one for each."""
    made: set[str] = set()
    for node in list(model.graph.node):
        if node.op_type == "Cast" and node.output[0] in made:
            model.graph.node.remove(node)
        made.update(node.output)


def _join_float32(model: ModelProto) -> None:
    """Pass values between float32 operations in float32: the converter casts them to float16 and back."""
    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    for node in graph.node:
        before = producer.get(node.input[0]) if _casts(node, TensorProto.FLOAT) else None
        if before is None or not _casts(before, TensorProto.FLOAT16):
            continue
        if node.output[0] in outputs:
            node.op_type = "Identity"
            del node.attribute[:]
            node.input[0] = before.input[0]
        else:
            renamed[node.output[0]] = before.input[0]
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    _remove_unread(model, outputs)


def _casts(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(part.name == "to" and part.i == kind for part in node.attribute)


def _remove_unread(model: ModelProto, outputs: set[str]) -> None:
    """Remove casts whose result nothing reads."""
    while True:
        read = outputs | {name for node in model.graph.node for name in node.input}
        unread = [node for node in model.graph.node if node.op_type == "Cast" and node.output[0] not in read]
        if not unread:
            return
        for node in unread:
            model.graph.node.remove(node)


class HalfSession(Session):
    """A float16 file that runs in float32 and rounds every result to float16, overflow included; a `Runnable`.

    ONNX Runtime's own runs on a CPU leave out the rounding between operations.  As in its kernels for GPUs, sums inside
    an operation are of float32.

    Raises:
        ParityError: the file is invalid, or ONNX Runtime refuses it.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        path = Path(path)
        rounding = path.with_name(f"rounding_{path.name}")
        model = onnx.load(path, load_external_data=False)
        _round_results(model)
        onnx.save(model, rounding)
        try:
            super().__init__(rounding)
        finally:
            rounding.unlink()
        self.path = path


def _round_results(model: ModelProto) -> None:
    """Make operations compute in float32 and round their results by casts, which ONNX Runtime keeps."""
    _round_graph(model.graph, with_types(model), frozenset())


def _round_graph(graph: GraphProto, typed: GraphProto, outside: Set[str]) -> None:
    """`_round_results` of a graph, in place; `typed` is the same with types, `outside` the float16 values around it."""
    stored = sorted(tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16)
    halves = {*outside, *stored, *tensors_of(typed, TensorProto.FLOAT16)}
    del graph.value_info[:]
    nodes = [_cast(name, _raised(name), TensorProto.FLOAT) for name in stored]
    for node, typed_node in zip(graph.node, typed.node, strict=True):
        for part, typed_part in zip(node.attribute, typed_node.attribute, strict=True):
            if part.HasField("g"):
                _round_graph(part.g, typed_part.g, halves)
        for place, name in enumerate(node.input):
            if name in halves:
                node.input[place] = _raised(name)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name not in halves:
                continue
            if node.op_type not in _OWN_TYPE:
                node.output[place] = f"{name}#exact"
                nodes.append(_cast(f"{name}#exact", name, TensorProto.FLOAT16))
            nodes.append(_cast(name, _raised(name), TensorProto.FLOAT))
    ordered = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)


def _raised(name: str) -> str:
    return f"{name}#float32"


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], to=kind)


def _copy(node: NodeProto) -> NodeProto:
    copied = NodeProto()
    copied.CopyFrom(node)
    return copied
