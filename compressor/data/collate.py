"""Samples of different lengths to one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from compressor.models.tasks import IGNORED

Sample = dict[str, Tensor]


def collate(samples: Sequence[Sample], pad: int = 0) -> Sample:
    """Stack samples; sequences are filled up on the right to the longest of this batch.

    Args:
        samples: dicts of the same keys, tensors without a batch dimension.
        pad: what fills up token ids.  Masks and token types are filled up with 0, labels with -100.

    Returns:
        Tensors [B, ...].  Where token ids had to be filled up and no mask was given, there is one.
    """
    ragged = len({len(sample["input_ids"]) for sample in samples}) > 1 if "input_ids" in samples[0] else False
    if ragged and "attention_mask" not in samples[0]:
        samples = [{**sample, "attention_mask": torch.ones_like(sample["input_ids"])} for sample in samples]
    return {name: _joined(name, [sample[name] for sample in samples], pad) for name in samples[0]}


def _joined(name: str, values: list[Tensor], pad: int) -> Tensor:
    values = [torch.as_tensor(value) for value in values]
    if values[0].dim() != 1 or len({len(value) for value in values}) == 1:
        return torch.stack(values)
    fill = IGNORED if name == "labels" else pad if name.endswith("input_ids") else 0
    return pad_sequence(values, batch_first=True, padding_value=fill)
