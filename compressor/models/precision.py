"""Half-precision models are fused and trained in float32."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.models.streamed import blocks_of
from compressor.utils.logging import quiet_transformers

SINGLE = torch.float32


def precision_of(models: Sequence[PreTrainedModel]) -> torch.dtype:
    """The lowest precision that represents all weights."""
    return reduce(torch.promote_types, [_precision(model) for model in models])


def in_single(model: PreTrainedModel) -> PreTrainedModel:
    """The model, or a float32 copy of half precision.

    Sums over tokens overflow float16; bfloat16's two digits are too few for least squares.
    """
    # Weights that are read when needed are raised then.
    if blocks_of(model) is not None or torch.finfo(_precision(model)).bits >= 32:
        return model
    raised_copy = copy.deepcopy(model).float()
    saved = raised_copy.state_dict().keys()
    rounded = [name for name, buffer in model.named_buffers() if name not in saved and _is_half(buffer.dtype)]
    if rounded:
        # Recompute buffers that `model.half()` rounds (rotary frequencies).
        with quiet_transformers(errors=False), torch.random.fork_rng(devices=[]):
            fresh = dict(type(model)(copy.deepcopy(model.config)).named_buffers())
        for name in rounded:
            raised_copy.get_buffer(name).copy_(fresh[name])
    return raised_copy


def inputs_in_single(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch, half precision raised to float32."""
    return {name: value.to(SINGLE) if _is_half(value.dtype) else value for name, value in batch.items()}


def lower(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Convert weights in place, but not buffers."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def round_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round weights to what a lower precision represents, in place; they stay in their own."""
    before = _precision(model)
    if torch.promote_types(before, dtype) != dtype:
        lower(lower(model, dtype), before)


@contextmanager
def lowered(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[None]:
    """Keep weights in another precision inside the block; they come back rounded."""
    before = _precision(model)
    if before == dtype:
        yield
        return
    lower(model, dtype)
    try:
        yield
    finally:
        lower(model, before)
        model.config.dtype = before


@contextmanager
def raised(model: PreTrainedModel) -> Iterator[None]:
    """Keep float32 weights inside the block: small steps are not rounded away."""
    before = _precision(model)
    if torch.finfo(before).bits >= 32:
        yield
        return
    lower(model, SINGLE)
    try:
        yield
    finally:
        lower(model, before)


def _precision(model: PreTrainedModel) -> torch.dtype:
    blocks = blocks_of(model)
    if blocks is not None:
        return blocks.precision
    return reduce(torch.promote_types, {p.dtype for p in model.parameters() if p.is_floating_point()})


def _is_half(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and torch.finfo(dtype).bits < 32
