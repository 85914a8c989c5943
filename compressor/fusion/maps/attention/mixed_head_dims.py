"""Attention of teachers with unlike heads, which cannot be averaged.

Each student's group takes one teacher's group: channels that keep QKᵀ, principal values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.anatomy import Map, Role, Space, map_key
from compressor.errors import UnsupportedError
from compressor.fusion.features.base import HeadStatistics
from compressor.fusion.maps.attention.low_rank import low_rank_product, padded


@dataclass(frozen=True)
class _Group:
    """A teacher's key–value group.

    Attributes:
        first_query, first_key: first coordinates in the pool.
    """

    teacher: int
    group: int
    heads: range
    first_query: int
    first_key: int


def alike(spaces: Sequence[Space], student: Space) -> bool:
    """Whether all heads and groups have the student's sizes."""
    return all((s.head_dim, s.heads // s.groups) == (student.head_dim, student.heads // student.groups) for s in spaces)


def unlike_maps(
    spaces: Sequence[Space], student: Space, statistics: HeadStatistics, importance: Tensor
) -> tuple[dict[str, Map], ...]:
    """Maps of query, key, value and output per teacher.

    Args:
        importance: of head channels [Σ n·d].

    Raises:
        UnsupportedError: channels or heads have fixed positions.
    """
    if student.rotary or student.head_position_fixed or student.order or not student.mixable:
        sizes = sorted({f"{s.head_dim} channels in groups of {s.heads // s.groups}" for s in (*spaces, student)})
        raise UnsupportedError(
            f"{student.name}: heads of {' and of '.join(sizes)} cannot be fused: their channels or heads have a place "
            f"(rotary or relative positions, gates), so use teachers whose heads are alike"
        )
    weights = {group: float(_importance_of(group, importance, spaces).sum()) for group in _groups(spaces)}
    chosen = sorted(weights, key=lambda group: weights[group], reverse=True)[: student.groups]
    pairs = [{role: _zero_pair(space, student, role) for role in Role} for space in spaces]
    for target, group in enumerate(chosen):
        _fill_group(pairs[group.teacher], target, group, spaces[group.teacher], student, statistics, importance)
    return tuple({map_key(student.name, role): Map(*pair) for role, pair in roles.items()} for roles in pairs)


def _fill_group(
    pairs: dict[Role, tuple[Tensor, Tensor]], target: int, group: _Group, space: Space, student: Space,
    statistics: HeadStatistics, importance: Tensor,
) -> None:  # fmt: skip
    """Set push and pull of one student's group."""
    d, m, per_group = space.head_dim, student.head_dim, student.heads // student.groups
    starts = [group.first_query + index * d for index in range(len(group.heads))]
    weights = torch.stack([importance[start : start + d].sum() for start in starts])
    order = weights.argsort(descending=True)[:per_group].sort().values.tolist()
    queries = torch.stack([_square(statistics.queries, starts[i], d) for i in order]).sum(0)
    a, b = low_rank_product(queries, _square(statistics.keys, group.first_key, d), m)
    outputs = torch.stack([_square(statistics.outputs, starts[i], d) for i in order]).sum(0)
    principal = padded(torch.linalg.eigh(outputs)[1].flip(1)[:, :m], m)
    # The student divides by the root of its own channels.
    a = a * math.sqrt(m / d) if student.scaled else a
    rows = slice(group.group * d, (group.group + 1) * d)
    columns = slice(target * m, (target + 1) * m)
    for role, matrix in ((Role.KEY, b), (Role.VALUE, principal)):
        pairs[role][0][rows, columns] = pairs[role][1][rows, columns] = matrix
    for place, index in enumerate(order):
        head, position = group.heads[index], target * per_group + place
        rows, columns = slice(head * d, (head + 1) * d), slice(position * m, (position + 1) * m)
        for role, matrix in ((Role.QUERY, a), (Role.OUTPUT, principal)):
            pairs[role][0][rows, columns] = pairs[role][1][rows, columns] = matrix


def _groups(spaces: Sequence[Space]) -> list[_Group]:
    groups, query, key = [], 0, 0
    for teacher, space in enumerate(spaces):
        per_group = space.heads // space.groups
        for group in range(space.groups):
            heads = range(group * per_group, (group + 1) * per_group)
            groups.append(_Group(teacher, group, heads, query, key))
            query, key = query + per_group * space.head_dim, key + space.head_dim
    return groups


def _importance_of(group: _Group, importance: Tensor, spaces: Sequence[Space]) -> Tensor:
    return importance[group.first_query : group.first_query + len(group.heads) * spaces[group.teacher].head_dim]


def _square(moments: Tensor, start: int, size: int) -> Tensor:
    return moments[start : start + size, start : start + size]


def _zero_pair(teacher: Space, student: Space, role: Role) -> tuple[Tensor, Tensor]:
    counts = [space.groups if role in (Role.KEY, Role.VALUE) else space.heads for space in (teacher, student)]
    sizes = [1, 1] if role is Role.HEADS else [teacher.head_dim, student.head_dim]
    shape = (counts[0] * sizes[0], counts[1] * sizes[1])
    return torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
