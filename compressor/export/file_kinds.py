"""ONNX files of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from transformers import PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.export import parity_cases
from compressor.export.graphs import (
    DecoderGraph,
    DecoderStepGraph,
    EncoderGraph,
    OnnxGraph,
    StepGraph,
    WholeGraph,
    forward_names,
)
from compressor.models.tasks import find_task


@dataclass(frozen=True)
class FileKind:
    """One file of a task; `graph` makes its computation; `cases` runs it, by batch size and seed."""

    name: str
    graph: Callable[[PreTrainedModel, bool], OnnxGraph]
    cases: Callable[[parity_cases.Files, PreTrainedModel, int, int], Iterator[parity_cases.ParityTrial]]
    cache: bool = False

    def named(self, suffix: str, ending: str = ".onnx") -> str:
        """Its name in another format."""
        return f"{self.name.removesuffix('.onnx')}{suffix}{ending}"


_WHOLE = FileKind(parity_cases.MODEL, WholeGraph, parity_cases.whole_model_cases)
_STEP = FileKind(parity_cases.MODEL_STEP, StepGraph, parity_cases.step_cases, cache=True)
_ENCODER = FileKind(parity_cases.ENCODER, EncoderGraph, parity_cases.encoder_cases)
_DECODER = FileKind(parity_cases.DECODER, DecoderGraph, parity_cases.decoder_cases)
_DECODER_STEP = FileKind(parity_cases.DECODER_STEP, DecoderStepGraph, parity_cases.decoder_step_cases, cache=True)

#: The files of a model with one stack of layers, by its task.
STACKS: dict[str, tuple[FileKind, ...]] = {
    **dict.fromkeys(("image-classification", "image-multi-label", "image-regression"), (_WHOLE,)),
    **dict.fromkeys(("text-classification", "text-multi-label", "text-regression"), (_WHOLE,)),
    "token-classification": (_WHOLE,),
    "masked-lm": (_WHOLE,),
    **dict.fromkeys(("features", "sentence-embedding"), (_WHOLE,)),
    "causal-lm": (_WHOLE, _STEP),
}

#: The files of an encoder–decoder, by its task.
ENCODER_DECODERS: dict[str, tuple[FileKind, ...]] = {
    "features": (_ENCODER, _DECODER, _DECODER_STEP),
    "seq2seq-lm": (_ENCODER, _DECODER, _DECODER_STEP),
}

#: Suffixes of files made from the float32 one.
INT8, INT8_DYNAMIC, FLOAT16 = "_int8", "_int8_dynamic", "_fp16"


def every_kind() -> tuple[FileKind, ...]:
    """Files of all tasks."""
    return tuple(dict.fromkeys(kind for files in (*STACKS.values(), *ENCODER_DECODERS.values()) for kind in files))


#: Every name that an export to ONNX may write.
NAMES = tuple(kind.named(suffix) for kind in every_kind() for suffix in ("", INT8, INT8_DYNAMIC, FLOAT16))


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
    return tuple(kind for kind in table[task] if cache or not kind.cache)


def has_cache(model: PreTrainedModel, wanted: bool = True) -> bool:
    """Whether a cache is wanted and the model has one."""
    return wanted and forward_names(model, "past_key_values")
