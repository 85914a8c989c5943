"""ONNX files of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from transformers import PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.export import parity_cases
from compressor.export.graphs import OnnxGraph, StepGraph, WholeGraph, forward_names
from compressor.export.two_part_graphs import DecoderGraph, DecoderStepGraph, EncoderGraph
from compressor.models.tasks.table import TASKS, find_task


@dataclass(frozen=True)
class FileKind:
    """One file of a task.

    Attributes:
        graph: its computation; of a merged file, that of its first part.
        cases: runs it, by batch size and seed.
        parts: files that it is merged from.
    """

    name: str
    graph: Callable[[PreTrainedModel, bool], OnnxGraph]
    cases: Callable[[parity_cases.Files, PreTrainedModel, int, int], Iterator[parity_cases.ParityTrial]]
    cache: bool = False
    parts: tuple[FileKind, ...] = ()

    def named(self, suffix: str, ending: str = ".onnx") -> str:
        """Its name in another format."""
        return f"{self.name.removesuffix('.onnx')}{suffix}{ending}"


_WHOLE = FileKind(parity_cases.MODEL, WholeGraph, parity_cases.whole_model_cases)
_STEP = FileKind(parity_cases.MODEL, StepGraph, parity_cases.step_cases, cache=True)
_ENCODER = FileKind(parity_cases.ENCODER, EncoderGraph, parity_cases.encoder_cases)
_DECODER = FileKind(parity_cases.DECODER, DecoderGraph, parity_cases.decoder_cases)
_DECODER_STEP = FileKind(parity_cases.DECODER_STEP, DecoderStepGraph, parity_cases.decoder_step_cases, cache=True)
_DECODER_MERGED = FileKind(
    parity_cases.DECODER_MERGED, DecoderGraph, parity_cases.merged_cases, cache=True, parts=(_DECODER, _DECODER_STEP)
)

#: The files of a model with one stack of layers, by its task; one with past takes the place of one of the same name.
STACKS: dict[str, tuple[FileKind, ...]] = {
    **{name: (_WHOLE,) for name in TASKS if name != "seq2seq-lm"},
    "causal-lm": (_WHOLE, _STEP),
}

#: The files of an encoder–decoder, by its task; a merged one takes the place of its parts.
ENCODER_DECODERS: dict[str, tuple[FileKind, ...]] = {
    **{name: (_WHOLE,) for name, task in TASKS.items() if task.columns},
    "features": (_ENCODER, _DECODER, _DECODER_MERGED),
    "seq2seq-lm": (_ENCODER, _DECODER, _DECODER_MERGED),
}

#: Suffixes of files made from the float32 one; Hugging Face optimum and transformers.js look for most of them.
INT8, INT8_DYNAMIC, UINT8, INT4, FLOAT16 = "_quantized", "_int8_dynamic", "_uint8", "_q4", "_fp16"
#: Files with past that earlier versions wrote, and the end of their int8 files.
_FORMER, _FORMER_INT8 = ("model_with_past.onnx", parity_cases.DECODER_STEP), "_int8"


def every_kind() -> tuple[FileKind, ...]:
    """Files of all tasks."""
    return tuple(dict.fromkeys(kind for files in (*STACKS.values(), *ENCODER_DECODERS.values()) for kind in files))


def _with_suffix(name: str, suffix: str) -> str:
    return f"{name.removesuffix('.onnx')}{suffix}.onnx"


#: Every name that an export to ONNX may write, or did in earlier versions.
NAMES = tuple(
    dict.fromkeys(
        _with_suffix(name, suffix)
        for name in (*(kind.name for kind in every_kind()), *_FORMER)
        for suffix in ("", INT8, INT8_DYNAMIC, UINT8, INT4, FLOAT16, _FORMER_INT8)
    )
)


def files_of(model: PreTrainedModel, cache: bool = True) -> tuple[FileKind, ...]:
    """Files of a model, in the order of the parity check; those with past only with `cache`.

    Raises:
        UnsupportedError: the task has no files.
    """
    task = find_task(model.config).name
    nested = bool(model.config.is_encoder_decoder)
    table = ENCODER_DECODERS if nested else STACKS
    if task not in table:
        kind = "encoder–decoders" if nested else "models of one stack"
        raise UnsupportedError(
            f"ONNX export of {type(model).__name__} ({task}) is not supported: the tasks of {kind} that are: "
            f"{', '.join(table)}"
        )
    cache = has_cache(model, cache)
    kinds = {kind.name: kind for kind in table[task] if cache or not kind.cache}
    merged = {part.name for kind in kinds.values() for part in kind.parts}
    return tuple(kind for kind in kinds.values() if kind.name not in merged)


def single_graphs(kinds: Iterable[FileKind]) -> tuple[FileKind, ...]:
    """Files of one graph each: the parts of merged ones, and all others."""
    return tuple(part for kind in kinds for part in kind.parts or (kind,))


def has_cache(model: PreTrainedModel, wanted: bool = True) -> bool:
    """Whether a cache is wanted and the model has one."""
    return wanted and forward_names(model, "past_key_values")
