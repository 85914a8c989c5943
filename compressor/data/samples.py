"""Samples as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from compressor.models.tasks.task import IGNORED
from compressor.models.teacher import ModelSpec

#: Model inputs by name, of a sample or a batch.
Sample = dict[str, Tensor]


class Reader(Protocol):
    """Reads samples by index."""

    def __call__(self, indices: Sequence[int]) -> list[Sample]: ...


@dataclass(frozen=True)
class ReadingOptions:
    """How samples are read.

    Attributes:
        processor: image processor or tokenizer.
        spec: None skips checks.
        max_length: tokens of the longest text.
        seed: of masked tokens.
    """

    processor: Any
    spec: ModelSpec | None
    labels: bool
    max_length: int | None = None
    seed: int = 0


def collate(samples: Sequence[Sample], pad: int = 0) -> Sample:
    """Stack samples, padding every dimension at its end to the largest.

    Args:
        samples: equal keys, no batch dimension.
        pad: for token ids; masks and token types get 0, labels -100.

    Returns:
        Tensors [B, ...]; padded token ids have an `attention_mask`.
    """
    ragged = "input_ids" in samples[0] and len({sample["input_ids"].shape[-1] for sample in samples}) > 1
    if ragged and "attention_mask" not in samples[0]:
        samples = [{**sample, "attention_mask": torch.ones_like(sample["input_ids"])} for sample in samples]
    return {name: _stack(name, [sample[name] for sample in samples], pad) for name in samples[0]}


def _stack(name: str, values: list[Tensor], pad: int) -> Tensor:
    values = [torch.as_tensor(value) for value in values]
    if not values[0].dim() or len({value.shape for value in values}) == 1:
        return torch.stack(values)
    fill = IGNORED if name == "labels" else pad if name.endswith("input_ids") else 0
    largest = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
    padded = []
    for value in values:
        # The last dimension comes first, each with what goes before and after it.
        pads = [pad for most, size in zip(largest, value.shape, strict=True) for pad in (most - size, 0)][::-1]
        padded.append(functional.pad(value, pads, value=fill))
    return torch.stack(padded)
