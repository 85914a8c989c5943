"""Models in half precision: fused and trained in float32, and given back as they came."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.utils.logging import quiet_transformers

SINGLE = torch.float32


def precision_of(models: Sequence[PreTrainedModel]) -> torch.dtype:
    """The least precision that loses nothing of any of them: the teachers' own where they agree."""
    return reduce(torch.promote_types, [_precision(model) for model in models])


def in_single(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, or a copy of it in float32 if its weights are in half precision.

    Sums over tokens overflow float16, and bfloat16 has two digits: too few for least squares.
    """
    if torch.finfo(_precision(model)).bits >= 32:
        return model
    twin = copy.deepcopy(model).float()
    saved = twin.state_dict().keys()
    rounded = [name for name, own in model.named_buffers() if name not in saved and _is_half(own.dtype)]
    if rounded:
        # What the config gives (rotary frequencies) is made again; `model.half()` has rounded it.
        with quiet_transformers(errors=False), torch.random.fork_rng(devices=[]):
            fresh = dict(type(model)(copy.deepcopy(model.config)).named_buffers())
        for name in rounded:
            twin.get_buffer(name).copy_(fresh[name])
    return twin


def inputs_in_single(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs for models in float32: numbers of half precision in it too."""
    return {name: value.to(SINGLE) if _is_half(value.dtype) else value for name, value in batch.items()}


def lower(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Bring a model's weights to a precision, in place; what its config gives keeps its own."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


@contextmanager
def raised(model: PreTrainedModel) -> Iterator[None]:
    """Weights in float32 meanwhile, which small steps are not lost in; then in the precision that they had."""
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
    return reduce(torch.promote_types, {p.dtype for p in model.parameters() if p.is_floating_point()})


def _is_half(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and torch.finfo(dtype).bits < 32
