"""A sample as tensors, how samples are read from a split, and samples as a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from compressor.models.tasks import IGNORED
from compressor.models.teacher import ModelSpec

#: Model inputs by name, without a batch dimension; or with one, for a batch.
Sample = dict[str, Tensor]


class Reader(Protocol):
    """Reads samples by their index in the split."""

    def __call__(self, indices: Sequence[int]) -> list[Sample]: ...


@dataclass(frozen=True)
class ReadingOptions:
    """How samples are read.

    Attributes:
        processor: the teacher's own image processor or tokenizer.
        spec: of the model; None checks nothing against it.
        labels: whether samples carry labels.
        max_length: longest text in tokens, if the user sets it.
        seed: of the tokens that are masked.
    """

    processor: Any
    spec: ModelSpec | None
    labels: bool
    max_length: int | None = None
    seed: int = 0


def collate(samples: Sequence[Sample], pad: int = 0) -> Sample:
    """Stack samples; sequences are padded on the right to the longest of this batch.

    Args:
        samples: dicts of the same keys, tensors without a batch dimension.
        pad: padding of token ids; masks and token types are padded with 0, labels with -100.

    Returns:
        Tensors [B, ...], with an `attention_mask` if token ids were padded.
    """
    ragged = len({len(sample["input_ids"]) for sample in samples}) > 1 if "input_ids" in samples[0] else False
    if ragged and "attention_mask" not in samples[0]:
        samples = [{**sample, "attention_mask": torch.ones_like(sample["input_ids"])} for sample in samples]
    return {name: _stack(name, [sample[name] for sample in samples], pad) for name in samples[0]}


def _stack(name: str, values: list[Tensor], pad: int) -> Tensor:
    values = [torch.as_tensor(value) for value in values]
    if values[0].dim() != 1 or len({len(value) for value in values}) == 1:
        return torch.stack(values)
    fill = IGNORED if name == "labels" else pad if name.endswith("input_ids") else 0
    return pad_sequence(values, batch_first=True, padding_value=fill)
