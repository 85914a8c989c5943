"""One file of two decoders, one without past and one with, whose weights are stored once.

The convention is that of optimum's `merge_decoders`, and what transformers.js loads of an encoder–decoder:
https://github.com/huggingface/optimum-onnx/blob/main/optimum/onnx/graph_transformations.py
https://github.com/huggingface/transformers.js/blob/main/packages/transformers/src/models/modeling_utils.js

The file has all inputs of both and `use_cache_branch` (bool [1]), which chooses a branch of one `If`.  On the first
call it is false, and `past_key_values` are tensors without entries.  Later calls return empty `present.*.encoder`:
those of the first call still hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from compressor.export.graph_values import integers
from compressor.export.graphs import OnnxGraph
from compressor.export.runtime import PAST_PREFIX, USE_CACHE

#: Types of sizes and places.
_INDICES = (ir.DataType.INT32, ir.DataType.INT64)
#: What a tensor holds: type, shape, digest.
_Content = tuple[ir.DataType, tuple[int, ...], bytes]


def input_names(graphs: Sequence[OnnxGraph]) -> tuple[str, ...]:
    """Inputs of a file of one graph or, merged, of two."""
    names = dict.fromkeys(name for graph in graphs for name in graph.inputs)
    return (*names, USE_CACHE) if len(graphs) > 1 else tuple(names)


def merge_decoders(parts: Sequence[Path], path: Path, largest: int) -> None:
    """Write one file of two: a decoder without past, and the same with past.

    Args:
        largest: bytes of weights above which they go to a file of their own.
    """
    models = [ir.load(part) for part in parts]
    graphs = [model.graph for model in models]
    outputs = _outputs(*graphs)
    _answer_all(graphs[1], graphs[0].outputs)
    inputs = _share_inputs(graphs)
    weights = list(_share_weights(graphs))
    chosen = ir.Value(name=USE_CACHE, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([1]))
    branches = [ir.AttrGraph(name, graph) for name, graph in zip(("else_branch", "then_branch"), graphs, strict=True)]
    choice = ir.Node("", "If", [chosen], branches, outputs=outputs, name="use_cache")
    opsets = models[0].opset_imports | models[1].opset_imports
    assert opsets.items() >= models[0].opset_imports.items(), "parts of one export have the same opset"
    graph = ir.Graph(
        [*inputs, chosen], outputs, nodes=[choice], initializers=weights, opset_imports=opsets, name="merged"
    )
    merged = ir.Model(
        graph,
        ir_version=max(model.ir_version for model in models),
        producer_name=models[0].producer_name,
        producer_version=models[0].producer_version,
        functions=[function for model in models for function in model.functions.values()],
    )
    if sum(value.const_value.nbytes for value in weights if value.const_value is not None) > largest:
        ir.save(merged, path, external_data=f"{path.name}.data")
    else:
        ir.save(ir.external_data.load_to_model(merged), path)


def _outputs(first: ir.Graph, step: ir.Graph) -> list[ir.Value]:
    """The outputs of both, with the axes of the decoder with past, which hold without past too."""
    shapes = {value.name: value.shape for value in (*first.outputs, *step.outputs)}
    return [ir.Value(name=value.name, type=value.type, shape=shapes[value.name]) for value in first.outputs]


def _answer_all(step: ir.Graph, outputs: Sequence[ir.Value]) -> None:
    """Let the decoder with past give every output, in their order; those that it has not are empty."""
    own = {value.name: value for value in step.outputs}
    for value in outputs:
        if value.name in own:
            continue
        assert value.shape is not None and value.dtype is not None
        # As in optimum: no samples, and one entry of other dynamic axes; but OpenVINO reads a constant of no entries as
        # a scalar.
        sizes = [size if isinstance(size, int) else int(axis > 0) for axis, size in enumerate(value.shape)]
        shape = integers(step, f"shape_{'_'.join(map(str, sizes))}", np.array(sizes, np.int64))
        empty = ir.node("ConstantOfShape", [shape], {"value": ir.tensor(np.zeros(1, value.dtype.numpy()))})
        empty.outputs[0].name = value.name
        empty.outputs[0].type, empty.outputs[0].shape = value.type, ir.Shape(sizes)
        step.append(empty)
        own[value.name] = empty.outputs[0]
    step.outputs[:] = [own[value.name] for value in outputs]


def _share_inputs(graphs: Iterable[ir.Graph]) -> list[ir.Value]:
    """Inputs of all graphs, in their order; the graphs read them from outside.

    Past keys and values have any sizes: on the first call optimum gives them hidden_size // heads channels, and those
    of the encoder no tokens, whatever the config says.
    """
    shared: dict[str | None, ir.Value] = {}
    for graph in graphs:
        for value in list(graph.inputs):
            if value.name not in shared:
                shape = value.shape
                if shape is not None and str(value.name).startswith(PAST_PREFIX):
                    tokens = shape[2] if not isinstance(shape[2], int) else "encoder_sequence"
                    shape = ir.Shape([shape[0], "heads", tokens, "channels"])
                shared[value.name] = ir.Value(name=value.name, type=value.type, shape=shape)
            value.replace_all_uses_with(shared[value.name])
        graph.inputs.clear()
    return list(shared.values())


def _share_weights(graphs: Iterable[ir.Graph]) -> Iterable[ir.Value]:
    """Weights of all graphs, each content once; scalars and lists of sizes stay, where ONNX Runtime looks for them."""
    shared: dict[_Content, ir.Value] = {}
    names: set[str] = set()
    for graph in graphs:
        for own_name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or not tensor.shape or (len(tensor.shape) == 1 and tensor.dtype in _INDICES):
                continue
            content = _content(tensor)
            if content not in shared:
                name = f"{own_name}_merged"
                while name in names:
                    name += "_"
                names.add(name)
                shared[content] = ir.Value(name=name, type=value.type, shape=value.shape, const_value=tensor)
            value.replace_all_uses_with(shared[content], replace_graph_outputs=True)
            del graph.initializers[own_name]
    return shared.values()


def _content(tensor: ir.TensorProtocol) -> _Content:
    return tensor.dtype, tuple(tensor.shape.numpy()), hashlib.sha256(tensor.tobytes()).digest()
