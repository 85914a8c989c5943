"""Writing a model as ONNX; the file takes its name only after it has been proved equal to torch."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError
from transformers import PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.export.parity import ParityReport, check_parity
from compressor.models.inputs import dummy_inputs, is_image_config, task_of
from compressor.models.quiet import one_line

#: What one protobuf file cannot hold, less some room for the graph; larger weights go to a file beside it.
LARGEST_FILE = 2**31 - 2**25

TASKS = ("image-classification", "text-classification", "token-classification", "masked-lm", "causal-lm")


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the finished file.
        bytes: of the file, and of the weights beside it if they are.
        seconds: of the export, without the parity check.
    """

    path: Path
    bytes: int
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float
    parity: ParityReport


class _Logits(nn.Module):
    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        # A cache would be one more output per layer.
        self.options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}

    def forward(self, *values: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, values, strict=True)), **self.options, return_dict=True).logits


def export_onnx(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 2, 5),
    seed: int = 0,
) -> ExportReport:
    """Write `folder`/onnx/model.onnx in float32, with any batch size and length, and prove it against torch.

    Inputs are named as the model's (pixel_values, or input_ids and attention_mask), the output is `logits`.
    An older file stays as it was unless the new one passes the check.

    Args:
        model: a classifier or language model; it is left as it is.
        folder: where the model's other files are; made if it does not exist.
        tolerance: see `check_parity`, likewise `batch_sizes` and `seed`.

    Raises:
        UnsupportedError: a task without one table of logits, or a model that torch cannot export.
        ParityError: the file disagrees with torch.
    """
    task = task_of(model.config)
    if task not in TASKS:
        raise UnsupportedError(
            f"ONNX export of {type(model).__name__} ({task}) is not supported: {', '.join(TASKS)} are"
        )
    target = Path(folder) / "onnx"
    target.mkdir(parents=True, exist_ok=True)
    # The check needs float32 on the CPU; only a model that is something else is copied.
    if model.device.type != "cpu" or model.dtype != torch.float32:
        model = copy.deepcopy(model).cpu().float()
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target))
    training = model.training
    try:
        model.eval()
        begin = time.perf_counter()
        names = _export(model, partial / "model.onnx")
        seconds = time.perf_counter() - begin
        with _silence():
            parity = check_parity(
                partial / "model.onnx", model, tolerance=tolerance, batch_sizes=batch_sizes, seed=seed
            )
        opset = _opset(partial / "model.onnx")
        written = _publish(partial, target)
    finally:
        model.train(training)
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            # Only if nothing is in it, which is when nothing was ever exported here.
            target.rmdir()
    return ExportReport(target / "model.onnx", written, opset, names, ("logits",), seconds, parity)


def _export(model: PreTrainedModel, path: Path) -> tuple[str, ...]:
    inputs = dummy_inputs(model.config, 2)
    names = tuple(inputs)
    axes = {0: "batch"} if is_image_config(model.config) else {0: "batch", 1: "sequence"}
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    try:
        with _silence():
            torch.onnx.export(
                _Logits(model, names).eval(),
                tuple(inputs.values()),
                path,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=("logits",),
                dynamic_shapes=(tuple(axes for _ in names),),
                external_data=weights > LARGEST_FILE,
            )
    except OnnxExporterError as error:
        reason = one_line(error.__cause__ or error)
        raise UnsupportedError(f"torch cannot export {type(model).__name__} to ONNX: {reason}") from error
    return names


def _opset(path: Path) -> int:
    graph = onnx.load(path, load_external_data=False)
    return next(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))


def _publish(partial: Path, target: Path) -> int:
    written = 0
    # The graph last: where it is, its weights are.
    for path in sorted(partial.iterdir(), key=lambda path: path.suffix == ".onnx"):
        written += path.stat().st_size
        os.replace(path, target / path.name)
    return written


@contextmanager
def _silence() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
