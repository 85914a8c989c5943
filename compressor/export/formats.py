"""Export formats by name; a new one is an entry of `EXPORT_FORMATS`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from compressor.errors import UserError
from compressor.export.file_kinds import (
    FLOAT16,
    INT4,
    INT8,
    INT8_DYNAMIC,
    UINT8,
    FileKind,
    files_of,
    has_cache,
    single_graphs,
)
from compressor.export.half import HalfSession, write_float16
from compressor.export.half_plan import HalfPlan, merge_plans, plan_half
from compressor.export.half_ranges import measure_ranges
from compressor.export.half_weights import HalfModel, write_half_weights
from compressor.export.merged_decoder import merge_decoders
from compressor.export.onnx import LARGEST_FILE
from compressor.export.opset import check_opset
from compressor.export.parity_cases import MODEL
from compressor.export.quantise import write_dynamic_int8, write_dynamic_uint8, write_int4, write_static_int8
from compressor.export.runtime import Runnable, Session
from compressor.export.torch_export import Program, write_program
from compressor.export.tracing import make_graph, silence, traceable
from compressor.models.modalities import is_image_config
from compressor.recipe import ExportOptions
from compressor.utils.registry import Registry

#: The float32 format that the other ONNX files are made from.
FLOAT = "onnx"


@dataclass(frozen=True)
class FormatSource:
    """Inputs of an export.

    Attributes:
        model: float32, on the CPU, in eval mode.
        floats: a folder with its float32 ONNX files, and the parts of merged ones.
    """

    model: PreTrainedModel
    floats: Path
    calibration: Sequence[Mapping[str, Tensor]]
    options: ExportOptions
    seed: int = 0

    @cached_property
    def half_plans(self) -> dict[str, HalfPlan]:
        """{file: operations that stay in float32}, measured once for all kinds; of merged ones and their parts."""
        kinds = files_of(self.model, self.options.cache)
        ranges = measure_ranges(single_graphs(kinds), self.floats, self.model, self.calibration, self.seed)
        samples = sum(len(next(iter(batch.values()))) for batch in self.calibration)
        plans = {name: plan_half(self.floats / name, found, samples) for name, found in ranges.items()}
        merged = {kind.name: merge_plans([plans[part.name] for part in kind.parts]) for kind in kinds if kind.parts}
        return plans | merged


_Write = Callable[[FileKind, FormatSource, Path], None]


@dataclass(frozen=True)
class ExportFormat:
    """One format.

    Attributes:
        folder: below the model's.
        suffix: of file names, before the ending.
        exact: refuses differences beyond the tolerance.
        from_float: made from the float32 ONNX files.
        whole: without a cache only: guards refuse an empty past.
        calibrated: whether a config needs calibration samples.
        half: float16, with operations in float32 by their measured ranges.
        is_model: the folder is one that transformers loads.
    """

    meaning: str
    folder: str
    write: _Write
    open: Callable[[Path], Runnable]
    suffix: str = ""
    ending: str = ".onnx"
    exact: bool = False
    from_float: bool = True
    whole: bool = False
    calibrated: Callable[[PretrainedConfig], bool] = field(default=lambda config: False)
    half: bool = False
    is_model: bool = False

    def kinds(self, model: PreTrainedModel, cache: bool) -> tuple[FileKind, ...]:
        """The files of a model; none if it has no single one and the format needs that.

        Raises:
            UnsupportedError: the task has no files.
        """
        if not self.whole:
            return files_of(model, cache)
        return tuple(kind for kind in files_of(model, cache=False) if kind.name == MODEL)

    def path(self, folder: Path, kind: FileKind) -> Path:
        """The file of a kind below `folder`."""
        return folder / self.folder / kind.named(self.suffix, self.ending)


def _copy(kind: FileKind, source: FormatSource, path: Path) -> None:
    for file in source.floats.glob(f"{kind.name}*"):
        shutil.copy(file, path.parent / file.name)


def _by_part(write: _Write) -> _Write:
    """A writer that converts the parts of a merged file, then merges them: ONNX Runtime's tools skip branches."""

    @wraps(write)
    def written(kind: FileKind, source: FormatSource, path: Path) -> None:
        if not kind.parts:
            return write(kind, source, path)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            parts = [Path(folder) / part.name for part in kind.parts]
            for part, place in zip(kind.parts, parts, strict=True):
                write(part, source, place)
            merge_decoders(parts, path, LARGEST_FILE)

    return written


@_by_part
def _int8(kind: FileKind, source: FormatSource, path: Path) -> None:
    if is_image_config(source.model.config):
        write_static_int8(source.floats / kind.name, path, source.calibration, source.options.int8)
    else:
        write_dynamic_int8(source.floats / kind.name, path, source.options.int8)


@_by_part
def _dynamic_int8(kind: FileKind, source: FormatSource, path: Path) -> None:
    write_dynamic_int8(source.floats / kind.name, path, source.options.int8)


@_by_part
def _uint8(kind: FileKind, source: FormatSource, path: Path) -> None:
    write_dynamic_uint8(source.floats / kind.name, path, source.options.int8)


@_by_part
def _int4(kind: FileKind, source: FormatSource, path: Path) -> None:
    write_int4(source.floats / kind.name, path)


@_by_part
def _float16(kind: FileKind, source: FormatSource, path: Path) -> None:
    write_float16(source.floats / kind.name, path, source.half_plans[kind.name])


def _bfloat16(kind: FileKind, source: FormatSource, path: Path) -> None:
    write_half_weights(source.model, path, torch.bfloat16)


def _half_weights(kind: FileKind, source: FormatSource, path: Path) -> None:
    write_half_weights(source.model, path, torch.float16)


def _program(kind: FileKind, source: FormatSource, path: Path) -> None:
    cache = has_cache(source.model, source.options.cache)
    with silence(), traceable(source.model):
        write_program(make_graph(kind, source.model, cache), path)


EXPORT_FORMATS: Registry[ExportFormat] = Registry("export format")
EXPORT_FORMATS.register(FLOAT)(ExportFormat("ONNX in float32", "onnx", _copy, Session, exact=True))
EXPORT_FORMATS.register("onnx-int8")(
    ExportFormat("ONNX with int8 weights", "onnx", _int8, Session, suffix=INT8, calibrated=is_image_config)
)
EXPORT_FORMATS.register("onnx-int8-dynamic")(
    ExportFormat(
        "ONNX with int8 weights, activations quantised as it runs", "onnx", _dynamic_int8, Session, INT8_DYNAMIC
    )
)
EXPORT_FORMATS.register("onnx-uint8")(
    ExportFormat(
        "ONNX with uint8 weights, of convolutions too, activations quantised as it runs", "onnx", _uint8, Session, UINT8
    )
)
EXPORT_FORMATS.register("onnx-int4")(
    ExportFormat("ONNX with int4 weights in blocks of 32, all else float32", "onnx", _int4, Session, INT4)
)
EXPORT_FORMATS.register("onnx-fp16")(
    ExportFormat(
        "ONNX in float16, inputs and outputs float32", "onnx", _float16, HalfSession, suffix=FLOAT16, half=True
    )
)
EXPORT_FORMATS.register("torch-export")(
    ExportFormat(
        "torch.export program", "torch", _program, Program, ending=".pt2", exact=True, from_float=False, whole=True
    )
)


EXPORT_FORMATS.register("safetensors-bf16")(
    ExportFormat(
        "a folder for transformers in bfloat16", "bfloat16", _bfloat16, HalfModel, ending=".safetensors",
        from_float=False, whole=True, is_model=True,
    )
)  # fmt: skip
EXPORT_FORMATS.register("safetensors-fp16")(
    ExportFormat(
        "a folder for transformers in float16", "float16", _half_weights, HalfModel, ending=".safetensors",
        from_float=False, whole=True, is_model=True,
    )
)  # fmt: skip


def check_formats(names: Sequence[str], config: PretrainedConfig, *, data: bool, opset: int | None = None) -> None:
    """Check formats for a model; `data`: whether there are calibration samples.

    Raises:
        UserError: names the format, or the opset.
    """
    check_opset(opset)
    for name in names:
        if EXPORT_FORMATS.get(name).calibrated(config) and not data:
            raise UserError(
                f"{name} of an image model needs calibration samples: name some with --data, or leave it out"
            )
