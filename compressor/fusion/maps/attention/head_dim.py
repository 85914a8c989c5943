"""Channels inside heads that become smaller: of queries and keys those that keep QKᵀ, of values those that keep VO.

A head's logits are a bilinear form of rank d in the residual stream, and what it writes is a linear map of rank d; both
are nearly always of lower rank than that.  So a student of half the width loses less by as many heads of half the size
than by half as many heads.  Where positions are rotary, channels have a place, and pairs of them are mixed only with
pairs that turn about as fast (`rotary`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.anatomy import Map, Role, Space, map_key
from compressor.fusion.features.base import HeadStatistics
from compressor.fusion.maps.attention.low_rank import low_rank_product, low_rank_written
from compressor.fusion.maps.attention.rotary import Turning, kept_pairs, turning_product


def narrowable(spaces: Sequence[Space], student: Space) -> bool:
    """Whether the student's heads are the teachers' with fewer channels each, which may be mixed."""
    shapes = {(space.head_dim, space.heads // space.groups) for space in spaces}
    if len(shapes) != 1 or (student.rotary and not all(space.pairs for space in spaces)):
        return False
    ((channels, per_group),) = shapes
    return student.head_dim < channels and student.heads // student.groups == per_group


def narrowed(
    maps: Sequence[dict[str, Map]],
    spaces: Sequence[Space],
    student: Space,
    statistics: HeadStatistics,
    turns: Turning | None,
    *,
    spaced: bool,
) -> tuple[dict[str, Map], ...]:
    """Maps to heads of the teachers' size, carried on to the student's smaller ones.

    Args:
        maps: per teacher, the maps of query, key, value and output to as many heads of the teachers' size.
        spaces: each teacher's attention space.
        student: the student's.
        statistics: moments of queries, keys and head outputs, all teachers pooled.
        turns: which pairs go together under rotary positions; None without them.
        spaced: keep evenly spaced channels, as a baseline, instead of those that matter.
    """
    d, m = spaces[0].head_dim, student.head_dim
    pooled = {role: torch.cat([own[map_key(student.name, role)].push for own in maps]) for role in Role}
    queries = _diagonal(pooled[Role.QUERY].T @ statistics.queries @ pooled[Role.QUERY], d)
    keys = _diagonal(pooled[Role.KEY].T @ statistics.keys @ pooled[Role.KEY], d)
    carry = _diagonal(pooled[Role.OUTPUT].T @ statistics.carry @ pooled[Role.OUTPUT], d)
    readers = torch.cat([own[map_key(student.name, Role.OUTPUT)].pull for own in maps]).T @ statistics.outgoing
    per_group = student.heads // student.groups
    scale = math.sqrt(m / d) if student.scaled else 1.0
    found: dict[Role, list[tuple[Tensor, Tensor]]] = {role: [] for role in Role if role is not Role.HEADS}
    for group in range(student.groups):
        heads = range(group * per_group, (group + 1) * per_group)
        if spaced:
            kept = torch.eye(d, dtype=torch.float64)[:, torch.linspace(0, d - 1, m).round().long()]
            match = kept if turns is None else kept_pairs(d, m, turns)
            products, values = (match, match), (kept, kept)
        else:
            asked = torch.stack([queries[h] for h in heads]).sum(0)
            if turns is None:
                products = low_rank_product(asked, keys[group], m)
            else:
                products = turning_product(asked, keys[group], m, turns)
            written = torch.cat([readers[h * d : (h + 1) * d] for h in heads], dim=1)
            values = low_rank_written(torch.stack([carry[h] for h in heads]).sum(0), written, m)
        query = products[0] * scale
        found[Role.QUERY] += [(query, _inverse(query))] * per_group
        found[Role.KEY].append((products[1], _inverse(products[1])))
        found[Role.VALUE].append(values)
        found[Role.OUTPUT] += [values] * per_group
    blocks = {
        role: [torch.block_diag(*(pair[side] for pair in pairs)) for side in (0, 1)] for role, pairs in found.items()
    }
    carried: list[dict[str, Map]] = []
    for own in maps:
        new = {map_key(student.name, Role.HEADS): own[map_key(student.name, Role.HEADS)]}
        for role, (push, pull) in blocks.items():
            one = own[map_key(student.name, role)]
            new[map_key(student.name, role)] = Map(one.push @ push, one.pull @ pull)
        carried.append(new)
    return tuple(carried)


def _diagonal(moments: Tensor, size: int) -> list[Tensor]:
    """The blocks [size, size] on the diagonal."""
    return [moments[k : k + size, k : k + size] for k in range(0, len(moments), size)]


def _inverse(push: Tensor) -> Tensor:
    """The pull that reads back what a push kept, by least squares."""
    return torch.linalg.pinv(push, rtol=1e-9).T
