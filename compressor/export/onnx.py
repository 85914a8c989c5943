"""Writing a model as ONNX; files take their names only after all of them have been proved equal to torch."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch.onnx.errors import OnnxExporterError
from transformers import PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.export.files import NAMES, files_of, has_cache
from compressor.export.graphs import OnnxGraph
from compressor.export.parity import ParityReport, check_parity, combine_cases
from compressor.export.tracing import make_graph, silence, traceable
from compressor.utils.logging import one_line
from compressor.utils.scratch import scratch

#: What scratch folders inside a model's folder are named after.
EXPORT = "export"
#: What one protobuf file cannot hold, less some room for the graph; larger weights go to a file beside it.
LARGEST_FILE = 2**31 - 2**25
#: Where torch keeps, for each node, the lines of code that it comes from.
STACK_TRACE = "pkg.torch.onnx.stack_trace"


@dataclass(frozen=True)
class FileReport:
    """One file that was written.

    Attributes:
        path: the finished file.
        bytes: of the file, and of the weights beside it if they are.
        opset: None where the format has none.
        seconds: of the export, without the parity check.
    """

    path: Path
    bytes: int
    opset: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float
    parity: ParityReport


@dataclass(frozen=True)
class ExportReport:
    """All that was written; what is not of one file is of the first or of all together."""

    files: tuple[FileReport, ...]

    @property
    def path(self) -> Path:
        return self.files[0].path

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def opset(self) -> int | None:
        return self.files[0].opset

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.files[0].inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.files[0].outputs

    @property
    def seconds(self) -> float:
        return sum(file.seconds for file in self.files)

    @property
    def parity(self) -> ParityReport:
        return combine_cases(
            [case for file in self.files for case in file.parity.cases], self.files[0].parity.tolerance
        )


def write_onnx(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    cache: bool = True,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 2, 5),
    seed: int = 0,
) -> ExportReport:
    """Write the files of a model to `folder`/onnx in float32, for any batch size and length, and prove them.

    Classifiers, masked language models and headless models have `model.onnx`; causal language models also
    `model_with_past.onnx`; encoder–decoders have `encoder_model.onnx`, `decoder_model.onnx` and
    `decoder_with_past_model.onnx`.  `graphs` says what goes in and comes out of each.
    Older files stay as they were unless all new ones pass the check; then those that were not written again go.

    Args:
        model: of a task that `files_of` knows; it is left as it is.
        folder: where the model's other files are; made if it does not exist.
        cache: whether generating models get a file with past, and decoders give keys and values.
        tolerance: see `check_parity`, likewise `batch_sizes` and `seed`.

    Raises:
        UnsupportedError: a task that has no files, or a model that torch cannot export.
        ParityError: a file disagrees with torch.
    """
    kinds = files_of(model, cache)
    cache = has_cache(model, cache)
    target = Path(folder) / "onnx"
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    model = plain(model)
    training = model.training
    graphs: dict[str, OnnxGraph] = {}
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        stack.callback(remove_empty, target, made)
        stack.callback(model.train, training)
        partial = stack.enter_context(scratch(target / EXPORT)) / "onnx"
        partial.mkdir()
        model.eval()
        for kind in kinds:
            begin = time.perf_counter()
            with silence(), traceable(model):
                graphs[kind.name] = make_graph(kind, model, cache)
                _export(graphs[kind.name], partial / kind.name)
            seconds[kind.name] = time.perf_counter() - begin
        with silence():
            parity = check_parity(partial, model, cache=cache, tolerance=tolerance, batch_sizes=batch_sizes, seed=seed)
        reports = tuple(
            FileReport(
                target / name,
                sum(path.stat().st_size for path in partial.glob(f"{name}*")),
                opset_of(partial / name),
                tuple(graph.inputs),
                graph.outputs,
                seconds[name],
                parity[name],
            )
            for name, graph in graphs.items()
        )
        _publish(partial, target)
    return ExportReport(reports)


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float32 on the CPU, as the checks need it; copied only if it is something else."""
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
    """Export a model into a temporary folder: the largest relative difference from torch of every file, by its name.

    Raises:
        UnsupportedError: as `write_onnx`, likewise `ParityError`.
    """
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        report = write_onnx(model, scratch, cache=cache, tolerance=tolerance, batch_sizes=batch_sizes, seed=seed)
    return {file.path.name: file.parity.max_rel for file in report.files}


def _export(graph: OnnxGraph, path: Path) -> None:
    weights = sum(parameter.numel() * parameter.element_size() for parameter in graph.parameters())
    try:
        torch.onnx.export(
            graph,
            tuple(graph.inputs.values()),
            path,
            dynamo=True,
            verbose=False,
            input_names=tuple(graph.inputs),
            output_names=graph.outputs,
            dynamic_shapes=(tuple(dict(graph.axes[name]) for name in graph.inputs),),
            external_data=weights > LARGEST_FILE,
        )
    except OnnxExporterError as error:
        reason = one_line(error.__cause__ or error)
        name = type(graph.model).__name__
        raise UnsupportedError(f"torch cannot export {name} to {path.name}: {reason}") from error
    _tidy(graph, path)


def _tidy(graph: OnnxGraph, path: Path) -> None:
    """Name the outputs' axes of any size as the graph does, where torch writes formulas, and leave out stack traces.

    Those would tell whoever gets the file in which folders of this machine the libraries are.
    """
    file = onnx.load(path, load_external_data=False)
    for node in (*file.graph.node, *(node for function in file.functions for node in function.node)):
        kept = [entry for entry in node.metadata_props if entry.key != STACK_TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    for value in file.graph.output:
        names = graph.axes[value.name]
        for index, axis in enumerate(value.type.tensor_type.shape.dim):
            if index in names and not axis.HasField("dim_value"):
                axis.dim_param = names[index]
    onnx.save(file, path)


def opset_of(path: Path) -> int:
    """The version of ONNX's own operations that a file uses."""
    graph = onnx.load(path, load_external_data=False)
    return next(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))


def remove_empty(folder: Path, made: bool) -> None:
    """Remove a folder that was made for files that did not come about."""
    if made:
        with suppress(OSError):
            folder.rmdir()


def _publish(partial: Path, target: Path) -> None:
    # Graphs last: where one is, its weights are.
    written = sorted(partial.iterdir(), key=lambda path: path.suffix == ".onnx")
    for path in written:
        os.replace(path, target / path.name)
    # What an export of another model or without this option left would not belong to these.
    for name in {name for kind in NAMES for name in (kind, f"{kind}.data")} - {path.name for path in written}:
        (target / name).unlink(missing_ok=True)
