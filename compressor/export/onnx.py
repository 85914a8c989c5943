"""Writing and checking the ONNX files of a model."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx
import torch
from torch.onnx.errors import OnnxExporterError
from transformers import PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.export.file_kinds import FileKind, files_of, has_cache, single_graphs
from compressor.export.graphs import OnnxGraph
from compressor.export.merged_decoder import input_names, merge_decoders
from compressor.export.opset import OpsetError, check_opset, opset_of
from compressor.export.parity import check_parity
from compressor.export.reports import ExportReport, report_file
from compressor.export.simplify import simplify
from compressor.export.staging import export_stage, onnx_files, publish
from compressor.export.tracing import make_graph, silence, traceable
from compressor.utils.logging import one_line

#: Largest protobuf file, less some room for the graph; larger weights go to a file of their own.
LARGEST_FILE = 2**31 - 2**25
#: Where torch keeps, for each node, the lines of code that it comes from.
STACK_TRACE = "pkg.torch.onnx.stack_trace"


def write_onnx(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    cache: bool = True,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 2, 5),
    seed: int = 0,
    opset: int | None = None,
    parts: Path | None = None,
) -> ExportReport:
    """Write a model to `folder`/onnx in float32, for any batch size and length, and compare with torch.

    Encoder–decoders have `encoder_model.onnx` and `decoder_model_merged.onnx`, or `decoder_model.onnx` without `cache`;
    all others `model.onnx`: of causal language models it takes and gives keys and values, if `cache`.  See `graphs` and
    `merged_decoder` for inputs, `check_parity` for arguments.  Older files are replaced only if all new ones pass.

    Args:
        parts: a folder for the files of one graph each that merged files are made of; they are not kept if omitted.

    Raises:
        UserError: an opset that onnx or ONNX Runtime does not know.
        OpsetError: the model has operations that the opset has not.
        UnsupportedError: torch cannot export the model.
        ParityError: a file disagrees with torch.
    """
    check_opset(opset)
    kinds = files_of(model, cache)
    cache = has_cache(model, cache)
    target = Path(folder) / "onnx"
    model = float32_on_cpu(model)
    names: dict[str, tuple[Iterable[str], Iterable[str]]] = {}
    seconds: dict[str, float] = {}
    with export_stage(model, target) as stage:
        partial, staged_parts = stage / "onnx", stage / "parts"
        partial.mkdir()
        staged_parts.mkdir()
        for kind in kinds:
            start = time.perf_counter()
            pieces = staged_parts if kind.parts else partial
            graphs = [_traced(part, model, cache, opset, pieces / part.name) for part in single_graphs([kind])]
            if kind.parts:
                merge_decoders([pieces / part.name for part in kind.parts], partial / kind.name, LARGEST_FILE)
            names[kind.name] = input_names(graphs), graphs[0].outputs
            seconds[kind.name] = time.perf_counter() - start
        with silence():
            parity = check_parity(partial, model, cache=cache, tolerance=tolerance, batch_sizes=batch_sizes, seed=seed)
        reports = tuple(report_file(partial / name, *ends, seconds[name], parity[name]) for name, ends in names.items())
        publish(partial, target, stale=onnx_files())
        if parts is not None:
            publish(staged_parts, parts)
    return ExportReport(reports).moved(partial, target)


def float32_on_cpu(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float32 on the CPU; a copy only if necessary."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return copy.deepcopy(model).cpu().float()
    return model


def largest_differences(
    model: PreTrainedModel,
    *,
    cache: bool = True,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 2, 5),
    seed: int = 0,
) -> dict[str, float]:
    """{file: largest relative difference from torch} of a temporary export; raises as `write_onnx`."""
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        report = write_onnx(model, folder, cache=cache, tolerance=tolerance, batch_sizes=batch_sizes, seed=seed)
    return {file.path.name: file.parity.max_rel for file in report.files}


def _traced(kind: FileKind, model: PreTrainedModel, cache: bool, opset: int | None, path: Path) -> OnnxGraph:
    """Write a file of one graph; its computation."""
    with silence(), traceable(model):
        graph = make_graph(kind, model, cache)
        graph.opset = opset
        _export(graph, path)
    return graph


def _export(graph: OnnxGraph, path: Path) -> None:
    weights = sum(parameter.numel() * parameter.element_size() for parameter in graph.parameters())
    try:
        program = torch.onnx.export(
            graph,
            tuple(graph.inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=tuple(graph.inputs),
            output_names=graph.outputs,
            dynamic_shapes=(tuple(dict(graph.axes[name]) for name in graph.inputs),),
            opset_version=graph.opset,
        )
    except OnnxExporterError as error:
        reason = one_line(error.__cause__ or error)
        name = type(graph.model).__name__
        raise UnsupportedError(f"torch cannot export {name} to {path.name}: {reason}") from error
    assert program is not None
    simplify(program.model)
    program.save(path, external_data=weights > LARGEST_FILE)
    _tidy(graph, path)
    if graph.opset is not None and (written := opset_of(path)) != graph.opset:
        # Below its own version torch writes that one and converts it, or leaves it.
        raise OpsetError(
            f"torch cannot write {type(graph.model).__name__} with opset {graph.opset}: some of its operations "
            f"need opset {written}"
        )


def _tidy(graph: OnnxGraph, path: Path) -> None:
    """Name dynamic axes of outputs; remove stack traces, which reveal local folders."""
    file = onnx.load(path, load_external_data=False)
    for node in (*file.graph.node, *(node for function in file.functions for node in function.node)):
        entries = [entry for entry in node.metadata_props if entry.key != STACK_TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(entries)
    for value in file.graph.output:
        names = graph.axes[value.name]
        for index, axis in enumerate(value.type.tensor_type.shape.dim):
            if index in names and not axis.HasField("dim_value"):
                axis.dim_param = names[index]
    onnx.save(file, path)
