"""Ranges of all tensors of float32 ONNX files, measured as they run.

ONNX Runtime computes float16 files in float32 on a CPU, so that no such run shows an overflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from torch import Tensor
from transformers import PreTrainedModel

from compressor.export.file_kinds import FileKind
from compressor.export.parity_cases import (
    DECODER,
    DECODER_STEP,
    ENCODER,
    MODEL,
    Files,
    decoder_logits,
    past_of,
)
from compressor.export.runtime import Session
from compressor.models.inputs import without_labels

#: Samples of the random inputs.
_RANDOM_BATCH = 2
#: Sums that a float16 kernel may keep in float16.
SUMS = ("ReduceMean", "ReduceSum")
#: Marks of added outputs, which no name of torch has.
_LARGEST, _SMALLEST, _SUM = "#largest", "#smallest", "#sum"


@dataclass
class Ranges:
    """Extremes over all runs of a file; infinite values, as in masks, are left out.

    Attributes:
        largest: {tensor: its largest magnitude}.
        smallest: {tensor: its smallest magnitude above zero}.
        sums: {output of a sum: the largest sum of magnitudes}.
    """

    largest: dict[str, float] = field(default_factory=dict)
    smallest: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Take one run's value of an added output into account."""
        tensor, mark = name.rpartition("#")[0], name[name.rindex("#") :]
        if mark == _SMALLEST:
            self.smallest[tensor] = min(value, self.smallest.get(tensor, float("inf")))
            return
        values = self.largest if mark == _LARGEST else self.sums
        # Of an empty tensor the largest is −∞.
        values[tensor] = max(value, values.get(tensor, 0.0))


class RangeSession(Session):
    """An ONNX file that records its ranges; a `Runnable`."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(path, load_external_data=False)
        outputs = [value.name for value in model.graph.output]
        _add_outputs(model)
        # Next to the file, as its weights may be in another one there.
        measured = path.with_name(f"ranges_{path.name}")
        onnx.save(model, measured)
        try:
            super().__init__(measured)
        finally:
            measured.unlink()
        self.path, self.ranges = path, Ranges()
        self._own = frozenset(outputs)

    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, and record the ranges."""
        given = super().run(values)
        for name, value in given.items():
            if name not in self._own:
                self.ranges.add(name, float(value))
        return {name: value for name, value in given.items() if name in self._own}


def measure_ranges(
    kinds: Sequence[FileKind],
    folder: Path,
    model: PreTrainedModel,
    calibration: Sequence[Mapping[str, Tensor]],
    seed: int = 0,
) -> dict[str, Ranges]:
    """{kind: ranges} of the float32 files in `folder`, on random inputs, with padding, and on calibration samples."""
    files = {kind.name: RangeSession(folder / kind.name) for kind in kinds}
    for kind in kinds:
        for _ in kind.cases(files, model, _RANDOM_BATCH, seed):
            pass
    for batch in calibration:
        _run_all(files, without_labels(batch))
    return {name: session.ranges for name, session in files.items()}


def float_tensors(model: ModelProto) -> list[str]:
    """Inputs and results of a graph's operations in float32."""
    return tensors_of(with_types(model), TensorProto.FLOAT)


def with_types(model: ModelProto) -> GraphProto:
    """The graph with the types of all results, in branches too, by inference."""
    bare = ModelProto()
    bare.CopyFrom(model)
    # Inner shapes contradict transposed weights.
    del bare.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(bare).graph


def tensors_of(graph: GraphProto, kind: int) -> list[str]:
    """Inputs and results of a graph's operations of one type, but those of its branches."""
    values = (*graph.input, *graph.value_info, *graph.output)
    return list(dict.fromkeys(value.name for value in values if value.type.tensor_type.elem_type == kind))


def _run_all(files: Files, batch: Mapping[str, Tensor]) -> None:
    """Run every file on a batch; those with past on its halves, one after the other."""
    if MODEL in files or "decoder_input_ids" in batch:
        logits_or_hidden(files, batch)
    if MODEL in files and "input_ids" in batch and (past := files[MODEL].empty_past(len(batch["input_ids"]))):
        for part in _halves(batch, batch["input_ids"].shape[1]):
            past = past_of(files[MODEL].run({**part, **past}))
    if DECODER_STEP in files and "decoder_input_ids" in batch:
        _run_decoder(files, batch)


def logits_or_hidden(files: Files, batch: Mapping[str, Tensor]) -> None:
    """Run the files without past."""
    if MODEL in files:
        files[MODEL].run(batch)
    else:
        decoder_logits(files, batch)


def _halves(batch: Mapping[str, Tensor], tokens: int) -> Iterator[dict[str, Tensor]]:
    mask = batch["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for begin, end in ((0, tokens // 2), (tokens // 2, tokens)):
        if end > begin:
            yield {
                "input_ids": batch["input_ids"][:, begin:end],
                "attention_mask": mask[:, :end],
                "position_ids": positions[:, begin:end],
            }


def _run_decoder(files: Files, batch: Mapping[str, Tensor]) -> None:
    source = {name: value for name, value in batch.items() if not name.startswith("decoder_")}
    given = {"encoder_hidden_states": files[ENCODER].run(source)["last_hidden_state"]}
    if "attention_mask" in batch:
        given["encoder_attention_mask"] = batch["attention_mask"]
    ids = batch["decoder_input_ids"]
    half = ids.shape[1] // 2
    if half:
        past = past_of(files[DECODER].run({"input_ids": ids[:, :half], **given}))
        files[DECODER_STEP].run({"input_ids": ids[:, half:], **given, **past})


def _add_outputs(model: ModelProto) -> None:
    """Add the extremes of every float32 tensor as outputs, and the sums of magnitudes."""
    graph, floats = model.graph, set(float_tensors(model))
    constants = [
        helper.make_tensor("#zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("#infinity", TensorProto.FLOAT, [], [float("inf")]),
    ]
    nodes: list[NodeProto] = []
    names: list[str] = []
    for tensor in floats:
        new = list(_extremes(tensor))
        nodes += new
        names += [tensor + _LARGEST, tensor + _SMALLEST]
    for node in graph.node:
        if node.op_type in SUMS and node.output[0] in floats and node.input[0] in floats:
            nodes += _sum_of_magnitudes(node)
            names.append(node.output[0] + _SUM)
    graph.initializer.extend(constants)
    graph.node.extend(nodes)
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in names)


def _extremes(tensor: str) -> Iterator[NodeProto]:
    """Nodes that compute the extremes of finite magnitudes."""
    magnitude, infinite, finite, zero, positive = (f"{tensor}#{part}" for part in ("abs", "inf", "fin", "zero", "pos"))
    yield helper.make_node("Abs", [tensor], [magnitude])
    yield helper.make_node("IsInf", [magnitude], [infinite])
    yield helper.make_node("Where", [infinite, "#zero", magnitude], [finite])
    yield helper.make_node("ReduceMax", [finite], [tensor + _LARGEST], keepdims=0)
    yield helper.make_node("Equal", [finite, "#zero"], [zero])
    yield helper.make_node("Where", [zero, "#infinity", finite], [positive])
    yield helper.make_node("ReduceMin", [positive], [tensor + _SMALLEST], keepdims=0)


def _sum_of_magnitudes(node: NodeProto) -> Iterator[NodeProto]:
    """Nodes that compute the largest sum of magnitudes of a mean or sum."""
    (result,), (summed, *axes) = node.output, node.input
    same = NodeProto()
    same.CopyFrom(node)
    same.name = ""
    del same.input[:], same.output[:]
    same.input.extend([f"{summed}#fin", *axes])
    same.output.append(f"{result}#reduced")
    yield same
    yield helper.make_node("ReduceMax", [f"{result}#reduced"], [f"{result}#most"], keepdims=0)
    if node.op_type == "ReduceSum":
        yield helper.make_node("Identity", [f"{result}#most"], [result + _SUM])
        return
    # The mean of n numbers is their sum over n.
    for tensor, size in ((summed, "all"), (result, "left")):
        yield helper.make_node("Size", [tensor], [f"{result}#{size}"])
        yield helper.make_node("Cast", [f"{result}#{size}"], [f"{result}#{size}f"], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [f"{result}#most", f"{result}#allf"], [f"{result}#times"])
    yield helper.make_node("Div", [f"{result}#times", f"{result}#leftf"], [result + _SUM])
