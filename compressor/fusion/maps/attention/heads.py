"""Maps of attention: match whole heads, then their channels.

A group's heads move together.  Queries and keys share a channel map, so that logits stay; values and outputs another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from compressor.anatomy import Map, Role, Space, map_key
from compressor.fusion.features.base import HeadStatistics
from compressor.fusion.maps.units import UnitMap, UnitProblem, chosen_units


@dataclass(frozen=True)
class _Member:
    """A teacher's key–value group.

    Attributes:
        query_heads, key_group: places in the pool.
    """

    teacher: int
    group: int
    query_heads: range
    key_group: int


def group_contributions(statistics: HeadStatistics, spaces: Sequence[Space]) -> Tensor:
    """Inner products of groups, their query heads matched, [Σ g, Σ g]."""
    contributions, members = statistics.contributions, _members(spaces)
    per_group = spaces[0].heads // spaces[0].groups
    if per_group == 1:
        return contributions
    products = torch.zeros(len(members), len(members), dtype=torch.float64)
    for i, member in enumerate(members):
        for j, other in enumerate(members):
            block = _block(contributions, member.query_heads, other.query_heads)
            products[i, j] = float(block[torch.arange(per_group), _assign(block)].sum())
    return products


def attention_maps(
    units: UnitMap, spaces: Sequence[Space], student: Space, statistics: HeadStatistics
) -> tuple[dict[str, Map], ...]:
    """Expand group maps [g_k, g] to query, key, value and output."""
    per_group, d = student.heads // student.groups, student.head_dim
    members = _members(spaces)
    mass = torch.cat([mapping.push for mapping in units.maps])
    pairs: list[dict[Role, tuple[Tensor, Tensor]]] = [
        {role: (_zeros(space, student, role), _zeros(space, student, role)) for role in Role} for space in spaces
    ]
    for target in range(student.groups):
        reference = members[int(mass[:, target].argmax())]
        for member in members:
            push = float(units.maps[member.teacher].push[member.group, target])
            pull = float(units.maps[member.teacher].pull[member.group, target])
            if push == 0 and pull == 0:
                continue
            match = _match(member, reference, statistics, d, rotary=student.rotary)
            pushes, pulls = pairs[member.teacher][Role.HEADS]
            for position, source in enumerate(match.query_heads):
                pushes[source, target * per_group + position] = push
                pulls[source, target * per_group + position] = pull
            for role, sources, order in match.blocks():
                heads = per_group if role in (Role.QUERY, Role.OUTPUT) else 1
                pushes, pulls = pairs[member.teacher][role]
                for position, source in enumerate(sources):
                    rows = source * d + order
                    columns = torch.arange((target * heads + position) * d, (target * heads + position + 1) * d)
                    pushes[rows, columns] = push
                    pulls[rows, columns] = pull
    return tuple({map_key(student.name, role): Map(*pair) for role, pair in roles.items()} for roles in pairs)


def placed_groups(problem: UnitProblem) -> UnitMap:
    """Heads of fixed position (ALiBi slopes 2^(-8 j / n)): student's head j of m matches the teacher's j n / m."""
    counts = [size // problem.block for size in problem.sizes]
    importance = problem.importance().split(counts)
    places = [torch.ceil(torch.arange(1, problem.units + 1) * n / problem.units).long() - 1 for n in counts]
    offsets = [sum(counts[:k]) for k in range(len(counts))]
    owners = torch.stack([part[place] for part, place in zip(importance, places, strict=True)]).argmax(dim=0)
    return chosen_units(problem, torch.stack([places[k][j] + offsets[k] for j, k in enumerate(owners.tolist())]))


@dataclass(frozen=True)
class _Match:
    """One member's query heads and channels, in the reference's order."""

    query_heads: list[int]
    group: int
    query_key_order: Tensor
    value_order: Tensor

    def blocks(self) -> list[tuple[Role, list[int], Tensor]]:
        return [
            (Role.QUERY, self.query_heads, self.query_key_order),
            (Role.KEY, [self.group], self.query_key_order),
            (Role.VALUE, [self.group], self.value_order),
            (Role.OUTPUT, self.query_heads, self.value_order),
        ]


def _match(member: _Member, reference: _Member, statistics: HeadStatistics, d: int, *, rotary: bool) -> _Match:
    unchanged = torch.arange(d)
    local_heads = list(range(member.group * len(member.query_heads), (member.group + 1) * len(member.query_heads)))
    if member == reference:
        return _Match(local_heads, member.group, unchanged, unchanged)
    heads = _assign(_block(statistics.contributions, reference.query_heads, member.query_heads))
    pairs = [(reference.query_heads[i], member.query_heads[int(j)]) for i, j in enumerate(heads)]
    query_key_order = unchanged
    if not rotary:
        likeness = _channels(statistics.keys, reference.key_group, member.key_group, d)
        likeness = likeness + sum(_channels(statistics.queries, a, b, d) for a, b in pairs)
        query_key_order = _assign(likeness)
    value_order = _assign(torch.stack([_channels(statistics.outputs, a, b, d) for a, b in pairs]).sum(0))
    return _Match([local_heads[int(j)] for j in heads], member.group, query_key_order, value_order)


def _assign(likeness: Tensor) -> Tensor:
    """The match of each reference item: hard transport by inner product.

    Between as many items of one mass it is an assignment, far quicker solved than by network simplex.
    """
    return torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])


def _block(matrix: Tensor, rows: range, columns: range) -> Tensor:
    return matrix[rows.start : rows.stop, columns.start : columns.stop]


def _channels(gram: Tensor, row: int, column: int, d: int) -> Tensor:
    """The channel block of two heads."""
    return _block(gram, range(row * d, (row + 1) * d), range(column * d, (column + 1) * d))


def _members(spaces: Sequence[Space]) -> list[_Member]:
    members, heads, groups = [], 0, 0
    for teacher, space in enumerate(spaces):
        per_group = space.heads // space.groups
        for group in range(space.groups):
            first = heads + group * per_group
            members.append(_Member(teacher, group, range(first, first + per_group), groups + group))
        heads, groups = heads + space.heads, groups + space.groups
    return members


def _zeros(teacher: Space, student: Space, role: Role) -> Tensor:
    counts = [space.groups if role in (Role.KEY, Role.VALUE) else space.heads for space in (teacher, student)]
    sizes = [1, 1] if role is Role.HEADS else [teacher.head_dim, student.head_dim]
    return torch.zeros(counts[0] * sizes[0], counts[1] * sizes[1], dtype=torch.float64)
