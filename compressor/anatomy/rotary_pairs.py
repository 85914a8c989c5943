"""Rotary positions: how channels of queries and keys are paired, and how fast the pairs turn.

A pair of channels is one complex number, turned by its frequency times the position.  Multiplying a pair of the queries
and of the keys by numbers that cancel in q*·k commutes with that, so pairs may be rotated and scaled; whether channels
are paired as this module believes is proven by doing so on a random model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE, logits_change
from compressor.anatomy.hooks import logits_of
from compressor.anatomy.spec import Anatomy, Kind, Role, Space, map_key
from compressor.anatomy.transform import Map, apply

#: Where the second channel of a pair is: in the other half of those that turn, or next to the first.
HALVES, NEIGHBOURS = "halves", "neighbours"
LAYOUTS = (HALVES, NEIGHBOURS)


def frequencies(model: nn.Module) -> Tensor | None:
    """Radians per position of every pair [n], float64; None without rotary positions or where layers differ."""
    found = [buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] == "inv_freq"]
    if not found or any(one.shape != found[0].shape or not torch.equal(one, found[0]) for one in found):
        return None
    return found[0].double()


def pairs(layout: str, count: int) -> tuple[Tensor, Tensor]:
    """The first and the second channel of every pair, [count] each."""
    first = torch.arange(count)
    return (first, first + count) if layout == HALVES else (2 * first, 2 * first + 1)


def with_pairs(model: nn.Module, inputs: Mapping[str, Tensor], anatomy: Anatomy) -> Anatomy:
    """The anatomy with the layout of the pairs of every space of rotary heads, where turning pairs proves it.

    Args:
        model: a random model, in float64.
        inputs: its inputs.
        anatomy: the model's.
    """
    turning = frequencies(model)
    spaces = [space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION and space.rotary]
    # Of a single pair both layouts hold, and neither is proven.
    if turning is None or len(turning) < 2 or not spaces:
        return anatomy
    before = logits_of(model, inputs)
    for layout in LAYOUTS:
        generator = torch.Generator().manual_seed(1)
        maps: dict[str, Map] = {}
        for space in spaces:
            maps |= _turned(space, layout, len(turning), generator)
        state = apply(maps, dict(model.named_parameters()), anatomy)
        if logits_change(model, inputs, state, before=before) <= CERTIFICATE_TOLERANCE:
            known = {space.name: replace(space, pairs=layout) for space in spaces}
            return replace(anatomy, spaces={**anatomy.spaces, **known})
    return anatomy


def _turned(space: Space, layout: str, count: int, generator: torch.Generator) -> dict[str, Map]:
    """Maps that turn every pair of a group's queries and keys by one random angle, and mix the channels that stay."""
    found: dict[Role, list[Tensor]] = {Role.QUERY: [], Role.KEY: []}
    first, second = pairs(layout, count)
    for _ in range(space.groups):
        angle = 6.28 * torch.rand(count, generator=generator, dtype=torch.float64)
        turn = torch.eye(space.head_dim, dtype=torch.float64)
        turn[first, first] = turn[second, second] = angle.cos()
        turn[first, second], turn[second, first] = angle.sin(), -angle.sin()
        rest = space.head_dim - 2 * count
        if rest:
            mixed = torch.randn(rest, rest, generator=generator, dtype=torch.float64)
            turn[2 * count :, 2 * count :] = torch.linalg.qr(mixed).Q
        found[Role.QUERY] += [turn] * (space.heads // space.groups)
        found[Role.KEY].append(turn)
    return {
        map_key(space.name, role): Map(torch.block_diag(*turns), torch.block_diag(*turns))
        for role, turns in found.items()
    }
