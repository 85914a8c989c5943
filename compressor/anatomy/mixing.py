"""Heads whose channels may be mixed, not only permuted.

Smaller heads take linear combinations of channels.  Gates, scales and norms of single channels forbid that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.anatomy.axes import Kind, Role, Space, map_key
from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE, Trials, answers_of, logits_change
from compressor.anatomy.spec import Anatomy
from compressor.anatomy.transform import Map, apply


def with_mixing(model: nn.Module, trials: Trials, anatomy: Anatomy) -> Anatomy:
    """The anatomy whose attention spaces say whether random invertible maps within heads keep the answers."""
    attentions = [space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION]
    if not attentions:
        return anatomy
    before = answers_of(model, trials)

    def mixes(spaces: Iterable[Space]) -> bool:
        generator = torch.Generator().manual_seed(1)
        maps = {key: mapping for space in spaces for key, mapping in _mixed(space, generator).items()}
        state = apply(maps, dict(model.named_parameters()), anatomy)
        return logits_change(model, trials, state, before=before) <= CERTIFICATE_TOLERANCE

    if mixes(attentions):
        return anatomy
    marked = {space.name: replace(space, mixable=mixes([space])) for space in attentions}
    return replace(anatomy, spaces={**anatomy.spaces, **marked})


def _mixed(space: Space, generator: torch.Generator) -> dict[str, Map]:
    """Values and their readers, and queries and keys unless their places are fixed."""
    blocks: dict[Role, list[tuple[Tensor, Tensor]]] = {role: [] for role in Role}
    repeats = space.heads // space.groups
    for _ in range(space.groups):
        values = _invertible(space.head_dim, generator)
        blocks[Role.VALUE].append(values)
        blocks[Role.OUTPUT] += [values] * repeats
        if not space.rotary:
            keys = _invertible(space.head_dim, generator)
            blocks[Role.KEY].append(keys)
            blocks[Role.QUERY] += [keys[::-1]] * repeats
    return {
        map_key(space.name, role): Map(*(torch.block_diag(*side) for side in zip(*pairs, strict=True)))
        for role, pairs in blocks.items()
        if pairs
    }


def _invertible(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A well-conditioned matrix, and its inverse transposed."""
    first, second = (torch.linalg.qr(torch.randn(size, size, generator=generator).double()).Q for _ in range(2))
    scales = 0.7 + torch.rand(size, generator=generator).double()
    return (first * scales) @ second, (first / scales) @ second
