"""Random permutations of spaces."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from compressor.anatomy.axes import Kind, Role, Space, map_key
from compressor.anatomy.transform import Map


def random_permutations(spaces: Iterable[Space], generator: torch.Generator) -> dict[str, Map]:
    """Random permutations of spaces.

    Rotary channels, fixed heads and streams with fixed places stay; spaces of one order share it.
    """
    maps: dict[str, Map] = {}
    orders: dict[str, tuple[list[int], list[list[int]]]] = {}
    for space in spaces:
        if space.kind is not Kind.ATTENTION:
            shape = (space.copies, space.size) if space.copies > 1 else (space.size,)
            order = torch.rand(shape, generator=generator).argsort(dim=-1)
            maps[space.name] = Map.permutation(order.sort().values if space.placed else order)
            continue
        heads = orders.setdefault(space.order or space.name, _random_heads(space, generator))
        maps |= _permuted_attention(space, heads, generator)
    return maps


def _random_heads(space: Space, generator: torch.Generator) -> tuple[list[int], list[list[int]]]:
    """Groups and their heads, shuffled."""
    per_group = space.heads // space.groups

    def shuffled(count: int) -> list[int]:
        return list(range(count)) if space.head_position_fixed else torch.randperm(count, generator=generator).tolist()

    groups = shuffled(space.groups)
    return groups, [[group * per_group + head for head in shuffled(per_group)] for group in groups]


def _permuted_attention(
    space: Space, order: tuple[list[int], list[list[int]]], generator: torch.Generator
) -> dict[str, Map]:
    channels = space.head_dim
    unchanged = torch.arange(channels)
    orders: dict[Role, list[Tensor]] = {role: [] for role in Role}
    for group, heads in zip(*order, strict=True):
        match = unchanged if space.rotary else torch.randperm(channels, generator=generator)
        carry = torch.randperm(channels, generator=generator)
        orders[Role.QUERY] += [head * channels + match for head in heads]
        orders[Role.OUTPUT] += [head * channels + carry for head in heads]
        orders[Role.HEADS] += [torch.tensor([head]) for head in heads]
        orders[Role.KEY].append(group * channels + match)
        orders[Role.VALUE].append(group * channels + carry)
    return {map_key(space.name, role): Map.permutation(torch.cat(order)) for role, order in orders.items()}
