"""What a graph says of its values before it runs: constants, and the sizes of axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """A constant's entries, or None."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def constant_list(value: ir.Value | None) -> list[int] | None:
    """A constant's integers, or None."""
    values = constant_of(value)
    return None if values is None else [int(number) for number in values.flatten()]


def concatenated(value: ir.Value | None) -> list[ir.Value | None] | None:
    """The parts of a concatenation, or None."""
    producer = None if value is None else value.producer()
    return None if producer is None or producer.op_type != "Concat" else list(producer.inputs)


def sizes_of(value: ir.Value | None) -> list[int | str | None] | None:
    """Sizes of the axes, a dynamic one by its name; None if the rank is not known."""
    if value is None:
        return None
    if value.shape is None:
        tensor = ir.convenience.get_const_tensor(value)
        return None if tensor is None else list(tensor.numpy().shape)
    return [size if isinstance(size, int) else size.value for size in value.shape]


def integers(graph: ir.Graph, name: str, values: np.ndarray) -> ir.Value:
    """A constant of int64 in a graph, made once for each name."""
    if name not in graph.initializers:
        tensor = ir.tensor(values, name=name)
        value = ir.Value(
            name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(list(values.shape))
        )
        graph.register_initializer(value)
    return graph.initializers[name]
