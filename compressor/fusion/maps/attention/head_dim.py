"""Smaller heads: channels that preserve QKᵀ and VO.

Both are nearly of lower rank, so smaller heads lose less than fewer ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.anatomy import Map, Role, Space, map_key
from compressor.fusion.features.base import HeadStatistics
from compressor.fusion.maps.attention.low_rank import low_rank_product, low_rank_written
from compressor.fusion.maps.attention.rotary import RotaryPairs, rotary_product, select_pairs

#: Push and pull [d, channels] of one head.
_Pair = tuple[Tensor, Tensor]


def narrowable(spaces: Sequence[Space], student: Space) -> bool:
    """Whether the student's heads are the teachers' with fewer, mixable channels."""
    shapes = {(space.head_dim, space.heads // space.groups) for space in spaces}
    if len(shapes) != 1 or not student.mixable or (student.rotary and not all(space.pairs for space in spaces)):
        return False
    ((channels, per_group),) = shapes
    return student.head_dim < channels and student.heads // student.groups == per_group


def narrowed(
    maps: Sequence[dict[str, Map]],
    spaces: Sequence[Space],
    student: Space,
    statistics: HeadStatistics,
    pairs: RotaryPairs | None,
    *,
    spaced: bool,
) -> tuple[dict[str, Map], ...]:
    """Extend maps to the student's smaller heads.

    Args:
        pairs: rotary channels, if any.
        spaced: keep evenly spaced channels.
    """
    d, name = spaces[0].head_dim, student.name
    blocks = _spaced_blocks(d, student, pairs) if spaced else _low_rank_blocks(maps, d, student, statistics, pairs)
    extended: list[dict[str, Map]] = []
    for teacher_maps in maps:
        smaller = {map_key(name, Role.HEADS): teacher_maps[map_key(name, Role.HEADS)]}
        for role, role_pairs in blocks.items():
            push, pull = (torch.block_diag(*(pair[side] for pair in role_pairs)) for side in (0, 1))
            whole = teacher_maps[map_key(name, role)]
            smaller[map_key(name, role)] = Map(whole.push @ push, whole.pull @ pull)
        extended.append(smaller)
    return tuple(extended)


def _spaced_blocks(d: int, student: Space, pairs: RotaryPairs | None) -> dict[Role, list[_Pair]]:
    """Push and pull of evenly spaced channels, per role and head."""
    m = student.head_dim
    selection = torch.eye(d, dtype=torch.float64)[:, torch.linspace(0, d - 1, m).round().long()]
    match = selection if pairs is None else select_pairs(d, m, pairs)
    group = _group_blocks(match, match, (selection, selection), d, student)
    return {role: blocks * student.groups for role, blocks in group.items()}


def _low_rank_blocks(
    maps: Sequence[Mapping[str, Map]], d: int, student: Space, statistics: HeadStatistics, pairs: RotaryPairs | None
) -> dict[Role, list[_Pair]]:
    """Push and pull that preserve QKᵀ and VO, per role and head."""
    name, m, per_group = student.name, student.head_dim, student.heads // student.groups
    pooled = {role: torch.cat([teacher_maps[map_key(name, role)].push for teacher_maps in maps]) for role in Role}
    queries = _moments_of_heads(pooled[Role.QUERY], statistics.queries, d)
    keys = _moments_of_heads(pooled[Role.KEY], statistics.keys, d)
    outputs = _moments_of_heads(pooled[Role.OUTPUT], statistics.outputs, d)
    pulls = torch.cat([teacher_maps[map_key(name, Role.OUTPUT)].pull for teacher_maps in maps])
    readers = pulls.T @ statistics.outgoing
    blocks: dict[Role, list[_Pair]] = {role: [] for role in Role if role is not Role.HEADS}
    for group in range(student.groups):
        heads = range(group * per_group, (group + 1) * per_group)
        query_moments = torch.stack([queries[h] for h in heads]).sum(0)
        if pairs is None:
            query, key = low_rank_product(query_moments, keys[group], m)
        else:
            query, key = rotary_product(query_moments, keys[group], m, pairs)
        written = torch.cat([readers[h * d : (h + 1) * d] for h in heads], dim=1)
        values = low_rank_written(torch.stack([outputs[h] for h in heads]).sum(0), written, m)
        for role, group_blocks in _group_blocks(query, key, values, d, student).items():
            blocks[role] += group_blocks
    return blocks


def _group_blocks(query: Tensor, key: Tensor, values: _Pair, d: int, student: Space) -> dict[Role, list[_Pair]]:
    """Push and pull of one group's heads."""
    per_group = student.heads // student.groups
    # The student divides by the root of its own channels.
    query = query * (math.sqrt(student.head_dim / d) if student.scaled else 1.0)
    return {
        Role.QUERY: [(query, _pull_of(query))] * per_group,
        Role.KEY: [(key, _pull_of(key))],
        Role.VALUE: [values],
        Role.OUTPUT: [values] * per_group,
    }


def _moments_of_heads(push: Tensor, moments: Tensor, size: int) -> list[Tensor]:
    """Moments [size, size] within each of the student's heads; few of the teachers' channels go into one."""
    heads = []
    for columns in push.split(size, dim=1):
        rows = columns.any(dim=1).nonzero().flatten()
        part = columns[rows]
        heads.append(part.T @ moments[rows[:, None], rows] @ part)
    return heads


def _pull_of(push: Tensor) -> Tensor:
    """The least-squares inverse of a push."""
    return torch.linalg.pinv(push, rtol=1e-9).T
