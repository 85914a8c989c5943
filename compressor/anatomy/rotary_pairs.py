"""Rotary positions: channel pairs and frequencies.

Pairs are complex numbers: factors that cancel in q*·k commute with rotation by position.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.anatomy.axes import Kind, Role, Space, map_key
from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE, Trials, answers_of, logits_change
from compressor.anatomy.spec import Anatomy
from compressor.anatomy.transform import Map, apply

#: Place of a pair's second channel: in the second half, or next to the first.
HALVES, NEIGHBOURS = "halves", "neighbours"
LAYOUTS = (HALVES, NEIGHBOURS)


def frequencies(model: nn.Module) -> Tensor | None:
    """Radians per position [n], float64; None if not rotary or layers differ."""
    buffers = [buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] == "inv_freq"]
    if not buffers or any(b.shape != buffers[0].shape or not torch.equal(b, buffers[0]) for b in buffers):
        return None
    return buffers[0].double()


def pairs(layout: str, count: int) -> tuple[Tensor, Tensor]:
    """First and second channels [count]."""
    first = torch.arange(count)
    return (first, first + count) if layout == HALVES else (2 * first, 2 * first + 1)


def with_pairs(model: nn.Module, trials: Trials, anatomy: Anatomy) -> Anatomy:
    """The anatomy with the pair layout whose rotations keep the logits (float64)."""
    rates = frequencies(model)
    spaces = [space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION and space.rotary]
    # For a single pair both layouts are the same.
    if rates is None or len(rates) < 2 or not spaces:
        return anatomy
    before = answers_of(model, trials)
    for layout in LAYOUTS:
        generator = torch.Generator().manual_seed(1)
        maps: dict[str, Map] = {}
        for space in spaces:
            maps |= _rotated(space, layout, len(rates), generator)
        state = apply(maps, dict(model.named_parameters()), anatomy)
        if logits_change(model, trials, state, before=before) <= CERTIFICATE_TOLERANCE:
            paired = {space.name: replace(space, pairs=layout) for space in spaces}
            return replace(anatomy, spaces={**anatomy.spaces, **paired})
    return anatomy


def _rotated(space: Space, layout: str, count: int, generator: torch.Generator) -> dict[str, Map]:
    """Rotate pairs randomly, mix other channels."""
    rotations: dict[Role, list[Tensor]] = {Role.QUERY: [], Role.KEY: []}
    first, second = pairs(layout, count)
    for _ in range(space.groups):
        angle = 6.28 * torch.rand(count, generator=generator, dtype=torch.float64)
        turn = torch.eye(space.head_dim, dtype=torch.float64)
        turn[first, first] = turn[second, second] = angle.cos()
        turn[first, second], turn[second, first] = angle.sin(), -angle.sin()
        unpaired = space.head_dim - 2 * count
        if unpaired:
            mixed = torch.randn(unpaired, unpaired, generator=generator, dtype=torch.float64)
            turn[2 * count :, 2 * count :] = torch.linalg.qr(mixed).Q
        rotations[Role.QUERY] += [turn] * (space.heads // space.groups)
        rotations[Role.KEY].append(turn)
    return {
        map_key(space.name, role): Map(torch.block_diag(*turns), torch.block_diag(*turns))
        for role, turns in rotations.items()
    }
