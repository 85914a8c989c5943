"""Computing only the tokens that are read, exactly.

A classifier reads the first token of its last layer.  The keys and values of all tokens are needed there, but no other
token's query, nor its output projection and feed-forward network: five sixths of the layer's products with weights.
The selection moves from the classifier up to the values that are needed in full.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from compressor.export.graph_values import concatenated, constant_list, integers, sizes_of

#: Operations on entries that do not depend on each other.
_ELEMENTWISE = frozenset(
    (
        "Add", "Sub", "Mul", "Div", "Pow", "Where", "Gelu", "Erf", "Tanh", "Sigmoid", "Relu", "Sqrt", "Reciprocal",
        "Neg", "Cast", "Identity",
    )
)  # fmt: skip
#: Where a value is read: {(node, index of its input): axis of the selected token}.
_Reads = dict[tuple[ir.Node, int], int]


def keep_read_tokens(model: ir.Model) -> None:
    """Leave out, in place, what is computed of tokens that nothing reads."""
    for node in list(model.graph):
        if node.op_type == "Gather" and (place := constant_list(node.inputs[1])) is not None:
            sizes, index_sizes = sizes_of(node.inputs[0]), sizes_of(node.inputs[1])
            if sizes is not None and index_sizes == [] and place[0] >= 0:
                _Selection(model.graph, node, place[0]).apply()


class _Selection:
    """One `Gather` of one token, and what is computed for it alone."""

    def __init__(self, graph: ir.Graph, gather: ir.Node, place: int) -> None:
        self.graph, self.gather, self.place = graph, gather, place
        source = gather.inputs[0]
        assert source is not None
        axis = gather.attributes.get_int("axis", 0) % len(sizes_of(source) or [0])
        self.reads: dict[ir.Value, _Reads] = {source: {(gather, 0): axis}}
        #: Nodes that compute one token, and the axis of it in their output.
        self.narrowed: dict[ir.Node, int] = {}

    def apply(self) -> None:
        """Select earlier, where that saves a product."""
        self._find()
        if not any(node.op_type == "MatMul" for node in self.narrowed):
            return
        for value, reads in self.reads.items():
            if value.producer() not in self.narrowed:
                self._slice(value, reads)
        for node, axis in self.narrowed.items():
            self._narrow(node, axis)
        self.gather.replace_input_with(1, self._constant("first", np.array(0, np.int64)))

    def _find(self) -> None:
        """Nodes whose output is read at that token only, the last ones first."""
        for node in reversed(list(self.graph)):
            value = node.outputs[0] if node.outputs else None
            if value is None or not (reads := self.reads.get(value)):
                continue
            axes = set(reads.values())
            if len(reads) < len(value.uses()) or value.is_graph_output() or len(axes) > 1 or len(node.outputs) > 1:
                continue
            if operands := dict(_operands(node, axis := axes.pop())):
                self.narrowed[node] = axis
                for index, operand_axis in operands.items():
                    operand = node.inputs[index]
                    assert operand is not None
                    self.reads.setdefault(operand, {})[node, index] = operand_axis

    def _slice(self, value: ir.Value, reads: _Reads) -> None:
        """Select the token of a value that is computed in full."""
        for axis in dict.fromkeys(reads.values()):
            bounds = (self.place, self.place + 1, axis)
            inputs = [value, *(self._constant(f"bound_{bound}", np.array([bound], np.int64)) for bound in bounds)]
            node = ir.node("Slice", inputs)
            node.outputs[0].name = f"{value.name}_token_{axis}"
            node.outputs[0].type = value.type
            node.outputs[0].shape = _one_token(value, axis)
            producer = value.producer()
            self.graph.insert_before(self.graph[0], node) if producer is None else producer.append(node)
            for (reader, index), read_axis in reads.items():
                if read_axis == axis:
                    reader.replace_input_with(index, node.outputs[0])

    def _narrow(self, node: ir.Node, axis: int) -> None:
        """Let a node's output have one token."""
        value = node.outputs[0]
        if node.op_type == "Reshape":
            if (shape := constant_list(node.inputs[1])) is not None:
                shape[axis] = 1
                given = self._constant(f"shape_{'_'.join(map(str, shape))}", np.array(shape, np.int64))
            else:
                parts = concatenated(node.inputs[1])
                assert parts is not None
                parts[axis] = self._constant("bound_1", np.array([1], np.int64))
                joined = ir.node("Concat", parts, {"axis": 0})
                joined.outputs[0].name = f"{value.name}_token_shape"
                node.prepend(joined)
                given = joined.outputs[0]
            node.replace_input_with(1, given)
        value.shape = _one_token(value, axis)

    def _constant(self, name: str, values: np.ndarray) -> ir.Value:
        return integers(self.graph, f"token_{name}", values)


def _one_token(value: ir.Value, axis: int) -> ir.Shape | None:
    if value.shape is None:
        return None
    return ir.Shape([1 if index == axis else size for index, size in enumerate(value.shape)])


def _operands(node: ir.Node, axis: int) -> Iterator[tuple[int, int]]:
    """(index of an input, axis) of what a node needs for one token of its output; nothing if it needs all tokens."""
    sizes, first = sizes_of(node.outputs[0]), sizes_of(node.inputs[0])
    if sizes is None or first is None:
        return
    rank, attributes = len(sizes), node.attributes
    match node.op_type:
        case kind if kind in _ELEMENTWISE:
            yield from _elementwise(node, axis, sizes)
        case "LayerNormalization" if axis < attributes.get_int("axis", -1) % rank:
            yield 0, axis
        case "Softmax" if axis != attributes.get_int("axis", -1) % rank:
            yield 0, axis
        case "MatMul" if len(first) == rank and axis == rank - 2:
            yield 0, axis
        case "Transpose":
            yield 0, attributes.get_ints("perm")[axis]
        case "ReduceMean" if rank == len(first) and _averages_others(node, axis, rank):
            yield 0, axis
        case "Reshape" if _keeps_leading(node, axis, first, sizes):
            yield 0, axis


def _keeps_leading(node: ir.Node, axis: int, given: list[int | str | None], made: list[int | str | None]) -> bool:
    """Whether the axes up to one stay as they are, and the new shape names each axis."""
    if None in given[: axis + 1] or given[: axis + 1] != made[: axis + 1]:
        return False
    parts = concatenated(node.inputs[1])
    by_axis = parts is not None and all(sizes_of(part) == [1] for part in parts)
    return by_axis or constant_list(node.inputs[1]) is not None


def _elementwise(node: ir.Node, axis: int, sizes: list[int | str | None]) -> Iterator[tuple[int, int]]:
    operands = []
    for index, operand in enumerate(node.inputs):
        given = sizes_of(operand)
        if given is None:
            return
        own = axis - (len(sizes) - len(given))
        if own < 0 or given[own] == 1:
            # The same for all tokens.
            continue
        if given[own] is None or given[own] != sizes[axis]:
            return
        operands.append((index, own))
    yield from operands


def _averages_others(node: ir.Node, axis: int, rank: int) -> bool:
    axes = constant_list(node.inputs[1]) if len(node.inputs) > 1 else None
    return axes is not None and axis not in {each % rank for each in axes}
