"""Which operations of an ONNX file stay in float32 when it is converted to float16."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from compressor.export.half_ranges import Ranges, float_tensors

#: Float16's largest number, and the smallest with all of its digits.
LARGEST_HALF, SMALLEST_HALF = 65504.0, 2.0**-14
#: How many times the measured extremes other inputs may reach.
ROOM = 4.0
#: Inputs of operations whose result depends on small values no less than on large ones: {operation: their places}.
_SCALE_FREE = {"Div": (1,), "Reciprocal": (0,), "Sqrt": (0,), "Log": (0,), "Pow": (0,)}
#: Angles lose their place on the circle in float16.
_ANGLES = ("Sin", "Cos")
#: Masks hold float32's lowest number.
_MASKED = float(np.finfo(np.float32).max)
#: What happens inside cannot be measured.
_OPAQUE = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "If", "Loop", "Scan")
#: Places where a value far below the others does not matter: {operation: their places}.
_ADDED = {
    "Add": (0, 1), "Sub": (0, 1), "Sum": tuple(range(64)), "Gemm": (2,), "Conv": (2,), "LayerNormalization": (2,),
}  # fmt: skip
#: Operations that pass small values and angles on.
_PASSING = {
    "Abs", "Cast", "Clip", "Concat", "Div", "Expand", "Identity", "Max", "Mul", "Pow", "ReduceMean", "ReduceSum",
    "Reshape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip


@dataclass(frozen=True)
class HalfPlan:
    """Nodes of a file that stay in float32, and why that is enough.

    Attributes:
        blocked: names of nodes; all nodes have one after `name_nodes`.
        operations: of the file, with float32 results.
        kept: {operation: how many stay in float32}.
        largest: largest magnitude of any tensor, without masks.
        largest_in_half: of those that become float16.
        samples: calibration samples that ran besides random inputs.
    """

    blocked: frozenset[str]
    operations: int
    kept: Mapping[str, int]
    largest: float
    largest_in_half: float
    samples: int


def merge_plans(plans: Sequence[HalfPlan]) -> HalfPlan:
    """The plan of several graphs together; the names of their nodes are not."""
    return HalfPlan(
        frozenset(),
        sum(plan.operations for plan in plans),
        dict(sorted(sum((Counter(plan.kept) for plan in plans), Counter[str]()).items())),
        max(plan.largest for plan in plans),
        max(plan.largest_in_half for plan in plans),
        plans[0].samples,
    )


def name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own."""
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"


def plan_half(path: Path, ranges: Ranges, samples: int) -> HalfPlan:
    """Keep operations in float32 that read or write a tensor beyond float16's range, with room, or that need precision.

    Weights are known, so they need no room.
    """
    model = onnx.load(path)
    name_nodes(model)
    return _Planner(model, ranges).plan(samples)


class _Planner:
    def __init__(self, model: ModelProto, ranges: Ranges) -> None:
        self.nodes = list(model.graph.node)
        self.ranges = ranges
        self.floats = set(float_tensors(model))
        self.weights = dict(_weights(model))
        self.results = set(value.name for value in model.graph.output)
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        for node in self.nodes:
            for place, name in enumerate(node.input):
                self.readers[name].append((node, place))
        self.blocked: set[str] = set()

    def plan(self, samples: int) -> HalfPlan:
        for name in (*self.weights, *self.floats):
            if self._too_large(name) or self._too_small(name):
                self._block_around(name)
        for node in self.nodes:
            if node.op_type in _OPAQUE or self._sums_too_much(node):
                self.blocked.add(node.name)
            elif node.op_type in _ANGLES:
                self._block_chain(node, lambda name: True)
            elif self._divides_by_little(node):
                self._block_chain(node, self._has_little)
        computing = [node for node in self.nodes if any(name in self.floats for name in node.output)]
        kept = Counter(node.op_type for node in computing if node.name in self.blocked)
        largest = {name: self._largest(name) for name in self.floats}
        half = [value for name, value in largest.items() if not self._is_float32(name)]
        unmasked = [value for value in largest.values() if value < _MASKED]
        return HalfPlan(
            frozenset(self.blocked),
            len(computing),
            dict(sorted(kept.items())),
            max(unmasked, default=0.0),
            max(half, default=0.0),
            samples,
        )

    def _is_float32(self, name: str) -> bool:
        """Whether only operations in float32 write and read a tensor."""
        nodes = [node for node, _ in self.readers[name]]
        if name in self.producer:
            nodes.append(self.producer[name])
        return all(node.name in self.blocked for node in nodes)

    def _largest(self, name: str) -> float:
        return self.weights[name] if name in self.weights else self.ranges.largest.get(name, 0.0)

    def _too_large(self, name: str) -> bool:
        if name in self.weights:
            # A mask's number becomes float16's lowest, unless the mask itself was measured.
            return LARGEST_HALF < self.weights[name] < _MASKED
        return self._largest(name) * ROOM > LARGEST_HALF

    def _too_small(self, name: str) -> bool:
        """Whether all values are so small that float16 cuts their digits, and something depends on them."""
        if not 0 < self._largest(name) < ROOM * SMALLEST_HALF:
            return False
        return name in self.results or any(
            place not in _ADDED.get(node.op_type, ()) for node, place in self.readers[name]
        )

    def _sums_too_much(self, node: NodeProto) -> bool:
        sums = self.ranges.sums.get(node.output[0], 0.0)
        if node.op_type == "ReduceL2":
            sums = self._largest(node.output[0]) ** 2
        return sums * ROOM > LARGEST_HALF

    def _divides_by_little(self, node: NodeProto) -> bool:
        places = _SCALE_FREE.get(node.op_type, ())
        if node.op_type == "Pow" and self._is_whole_power(node):
            return False
        return any(self._has_little(node.input[place]) for place in places)

    def _is_whole_power(self, node: NodeProto) -> bool:
        """Squares and cubes of small values are small."""
        exponent = self.weights.get(node.input[1])
        return exponent is not None and exponent >= 1 and exponent == int(exponent)

    def _has_little(self, name: str) -> bool:
        if name in self.weights:
            return False
        return self.ranges.smallest.get(name, 1.0) < SMALLEST_HALF

    def _block_around(self, name: str) -> None:
        """The operations that write or read a tensor."""
        if name in self.producer:
            self.blocked.add(self.producer[name].name)
        self.blocked.update(node.name for node, _ in self.readers[name])

    def _block_chain(self, node: NodeProto, follow: Callable[[str], bool]) -> None:
        """An operation, and those before it that pass on values to follow; additions only of constants."""
        waiting, seen = [node], set()
        while waiting:
            here = waiting.pop()
            self.blocked.add(here.name)
            seen.add(here.name)
            for name in here.input:
                before = self.producer.get(name)
                if before is None or before.name in seen or name not in self.floats or not follow(name):
                    continue
                if self._passes(before):
                    waiting.append(before)

    def _passes(self, node: NodeProto) -> bool:
        if node.op_type in ("Add", "MatMul"):
            # Such as the ε of a norm, and the frequencies of rotary angles.
            return any(name in self.weights or name not in self.producer for name in node.input)
        return node.op_type in _PASSING


def _weights(model: ModelProto) -> Iterator[tuple[str, float]]:
    """(name, largest magnitude) of stored float32 tensors."""
    constants = (
        (node.output[0], attribute.t)
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    )
    stored: Iterable[tuple[str, TensorProto]] = ((tensor.name, tensor) for tensor in model.graph.initializer)
    for name, tensor in (*stored, *constants):
        if tensor.data_type == TensorProto.FLOAT:
            values = np.abs(numpy_helper.to_array(tensor))
            yield name, float(np.max(values[np.isfinite(values)], initial=0.0))
