"""Merges of fine-tunes of one ancestor, weight by weight, at full width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Weights = dict[str, Tensor]
#: Called with the ancestor's weights and those of its fine-tunes.
Merge = Callable[[Weights, Sequence[Weights]], Weights]

#: What the papers take where nothing can be tuned (TIES, appendix C.4).
TASK_SCALE, TIES_SCALE, TIES_KEPT = 0.4, 1.0, 0.2


def plain_average(ancestor: Weights, experts: Sequence[Weights]) -> Weights:
    """The mean of the experts; Wortsman et al. 2022, https://arxiv.org/abs/2203.05482."""
    return {name: torch.stack([expert[name] for expert in experts]).mean(0) for name in ancestor}


def task_arithmetic(ancestor: Weights, experts: Sequence[Weights]) -> Weights:
    """The ancestor and a share of what every expert changed; Ilharco et al. 2023, https://arxiv.org/abs/2212.04089."""
    return {
        name: value + TASK_SCALE * torch.stack([expert[name] - value for expert in experts]).sum(0)
        for name, value in ancestor.items()
    }


def ties(ancestor: Weights, experts: Sequence[Weights]) -> Weights:
    """Large changes alone, of the sign that has more mass; Yadav et al. 2023, https://arxiv.org/abs/2306.01708."""
    changes = torch.stack([torch.cat([(expert[n] - ancestor[n]).flatten() for n in ancestor]) for expert in experts])
    kept = max(round(TIES_KEPT * changes.shape[1]), 1)
    least = changes.abs().topk(kept, dim=1).values[:, -1:]
    changes = torch.where(changes.abs() >= least, changes, 0.0)
    agreeing = torch.where(changes.sign() == changes.sum(0).sign(), changes, 0.0)
    merged = agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)
    parts = merged.split([value.numel() for value in ancestor.values()])
    return {
        name: value + TIES_SCALE * part.view_as(value)
        for (name, value), part in zip(ancestor.items(), parts, strict=True)
    }
