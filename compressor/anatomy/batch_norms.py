"""Running statistics of batch norms, which are no parameters but differ from channel to channel.

In evaluation a batch norm is a scale and a shift.  With the statistics folded into these its channels are alike, so
they may be permuted and mapped; a finetune needs the statistics back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.anatomy.hooks import hooks, logits_of

_Model = TypeVar("_Model", bound=nn.Module)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Batch norms with statistics, scale and shift, by the order of modules."""
    found = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in found if norm.running_mean is not None and norm.weight is not None]


def statistics_of(model: nn.Module) -> set[str]:
    """Names of the buffers that `fold_statistics` makes constant."""
    norms = set(batch_norms(model))
    owners = [name for name, module in model.named_modules() if module in norms]
    return {f"{owner}.{buffer}" for owner in owners for buffer in ("running_mean", "running_var")}


def without_statistics(model: _Model) -> _Model:
    """The model, or a copy that answers alike in evaluation, whose batch norms have mean 0 and variance 1."""
    if not batch_norms(model):
        return model
    folded = copy.deepcopy(model)
    fold_statistics(folded)
    return folded


@torch.no_grad()
def fold_statistics(model: nn.Module) -> None:
    """Fold the statistics of batch norms into scales and shifts, in place."""
    for norm in batch_norms(model):
        _set_statistics(norm, torch.zeros_like(norm.weight), torch.ones_like(norm.weight))


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Give batch norms the statistics of their inputs over some batches; the answers in evaluation stay.

    Args:
        batches: inputs of the model, without labels.
    """
    norms = batch_norms(model)
    if not norms:
        return
    sums: dict[nn.Module, list[Any]] = {norm: [0, 0.0, 0.0] for norm in norms}

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = args[0].movedim(1, -1).flatten(0, -2).double()
        entry = sums[module]
        entry[0], entry[1], entry[2] = entry[0] + len(rows), entry[1] + rows.sum(0), entry[2] + rows.square().sum(0)

    with hooks([norm.register_forward_pre_hook(record) for norm in norms]):
        for batch in batches:
            logits_of(model, batch)
    for norm in norms:
        count, total, squares = sums[norm]
        if count:
            mean = total / count
            _set_statistics(norm, mean, (squares / count - mean.square()).clamp(min=norm.eps))


def _set_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Other statistics, with a scale and a shift that keep the answers in evaluation."""
    assert norm.running_mean is not None and norm.running_var is not None
    spread = [(each.double() + norm.eps).sqrt() for each in (norm.running_var, variance)]
    scale = norm.weight.double() / spread[0]
    shift = norm.bias.double() + scale * (mean.double() - norm.running_mean.double())
    norm.weight.copy_(scale * spread[1])
    norm.bias.copy_(shift)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
