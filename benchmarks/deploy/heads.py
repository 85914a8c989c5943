"""The time of transformer layers by their number of heads in ONNX Runtime: random weights, as exported.

    python -m benchmarks.deploy.heads

`compressor.fusion.shape.cost` takes its cost of an attention entry from this: at one size the time grows linearly with
the heads, and the slope over T² entries, in units of the time of a multiply–accumulate, is printed last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import typer
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compressor.bench.latency import Latency, Runner, measure_latency

#: Layers of a timed graph, so that its ends do not count.
LAYERS = 2
_OPSET, _IR = 20, 10


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of a layer; `tokens` of a sample, `hidden` of the residual stream."""

    tokens: int
    hidden: int
    heads: int
    head_dim: int
    ffn: int


def time_layers(
    sizes: Sequence[LayerSizes], *, batch_size: int, threads: int, seconds: float, warmups: int = 5
) -> list[Latency]:
    """Latency of `LAYERS` layers of each size, in turns."""
    runners = {str(index): _runner(each, batch_size, threads) for index, each in enumerate(sizes)}
    measured = measure_latency(runners, seconds=seconds, warmups=warmups)
    return [measured[str(index)] for index in range(len(sizes))]


def _runner(sizes: LayerSizes, batch_size: int, threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    graph = layer_graph(sizes).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    shape = (batch_size, sizes.tokens, sizes.hidden)
    feed = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    return Runner(lambda: session.run(None, feed), "onnxruntime", batch_size, threads)


def layer_graph(sizes: LayerSizes, layers: int = LAYERS) -> onnx.ModelProto:
    """A stack of pre-norm layers, from x [B, T, hidden] to y."""
    weights: dict[str, np.ndarray] = {}
    nodes: list[NodeProto] = []
    name = "x"
    for index in range(layers):
        add = _adder(f"{index}.", nodes, weights)
        for part in (_attention, _ffn):
            name = add("Add", name, part(add, add("LayerNormalization", name, *_scale(sizes), axis=-1), sizes))
    nodes.append(helper.make_node("Identity", [name], ["y"]))
    x, y = (helper.make_tensor_value_info(e, TensorProto.FLOAT, ["batch", sizes.tokens, sizes.hidden]) for e in "xy")
    stored = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, "layers", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


#: Adds a node of names or arrays, and returns the name of its output.
_Add = Callable[..., str]


def _adder(prefix: str, nodes: list[NodeProto], weights: dict[str, np.ndarray]) -> _Add:
    names = (f"{prefix}{index}" for index in range(1 << 20))

    def stored(values: Sequence[str | np.ndarray]) -> Iterator[str]:
        for value in values:
            if isinstance(value, str):
                yield value
            else:
                weights[key := next(names)] = value
                yield key

    def add(kind: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        output = next(names)
        nodes.append(helper.make_node(kind, list(stored(inputs)), [output], **attributes))
        return output

    return add


def _attention(add: _Add, x: str, sizes: LayerSizes) -> str:
    width = sizes.heads * sizes.head_dim
    split = np.array([0, sizes.tokens, sizes.heads, sizes.head_dim])

    def head(order: list[int]) -> str:
        return add("Transpose", add("Reshape", _linear(add, x, sizes.hidden, width), split), perm=order)

    query, value, key = head([0, 2, 1, 3]), head([0, 2, 1, 3]), head([0, 2, 3, 1])
    scale = np.float32(sizes.head_dim**-0.5)
    shares = add("Softmax", add("MatMul", add("Mul", query, np.asarray(scale)), key), axis=-1)
    mixed = add("Transpose", add("MatMul", shares, value), perm=[0, 2, 1, 3])
    return _linear(add, add("Reshape", mixed, np.array([0, sizes.tokens, width])), width, sizes.hidden)


def _ffn(add: _Add, x: str, sizes: LayerSizes) -> str:
    return _linear(add, add("Gelu", _linear(add, x, sizes.hidden, sizes.ffn)), sizes.ffn, sizes.hidden)


def _linear(add: _Add, x: str, inputs: int, outputs: int) -> str:
    weight = np.random.default_rng(inputs).standard_normal((inputs, outputs)) * inputs**-0.5
    return add("Add", add("MatMul", x, weight.astype(np.float32)), np.zeros(outputs, np.float32))


def _scale(sizes: LayerSizes) -> tuple[np.ndarray, np.ndarray]:
    return np.ones(sizes.hidden, np.float32), np.zeros(sizes.hidden, np.float32)


def main(threads: int = 1, batch_size: int = 1, seconds: float = 1.0) -> None:
    """Print the times of layers of several sizes."""
    for hidden, tokens in ((96, 17), (96, 65), (192, 65), (192, 128)):
        heads = [count for count in (2, 3, 4, 6, 8, 12, 16) if hidden // count >= 8]
        sizes = [LayerSizes(tokens, hidden, count, hidden // count, 4 * hidden) for count in heads]
        measured = time_layers(sizes, batch_size=batch_size, threads=threads, seconds=seconds)
        times = [each.p50_ms for each in measured]
        slope, base = np.polyfit(heads, times, 1)
        macs = LAYERS * batch_size * (tokens * 12 * hidden**2 + 2 * tokens**2 * hidden)
        entries = slope / (base / macs) / (LAYERS * batch_size * tokens**2)
        shown = ", ".join(f"{count}: {time:.3f}" for count, time in zip(heads, times, strict=True))
        typer.echo(f"hidden {hidden}, {tokens} tokens; ms by heads: {shown}; an entry costs {entries:.0f} MACs")


if __name__ == "__main__":
    typer.run(main)
