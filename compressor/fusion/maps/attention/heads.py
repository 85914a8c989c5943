"""Maps of attention: heads as wholes first, then the channels inside matched heads.

Groups of query heads that share keys and values move together.  Queries and keys share one channel map, or logits
would not cancel; values and outputs share another.  Rotary positions pin query–key channels to their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.anatomy import Map, Role, Space, map_key
from compressor.fusion.features.base import HeadStatistics
from compressor.fusion.maps.units import UnitMap, UnitProblem, chosen_units
from compressor.transport import solve, uniform


@dataclass(frozen=True)
class _Member:
    """A teacher's group in the pool: which teacher, which group of it, and where its coordinates lie in the pool."""

    teacher: int
    group: int
    query_heads: range
    key_group: int


def group_contributions(statistics: HeadStatistics, spaces: Sequence[Space]) -> Tensor:
    """Inner products between key–value groups: their query heads matched as well as they can be, [Σ g, Σ g]."""
    contributions, members = statistics.contributions, _members(spaces)
    per_group = spaces[0].heads // spaces[0].groups
    if per_group == 1:
        return contributions
    found = torch.zeros(len(members), len(members), dtype=torch.float64)
    for i, one in enumerate(members):
        for j, other in enumerate(members):
            block = _block(contributions, one.query_heads, other.query_heads)
            found[i, j] = float(block[torch.arange(per_group), _assign(block)].sum())
    return found


def attention_maps(
    units: UnitMap, spaces: Sequence[Space], student: Space, statistics: HeadStatistics
) -> tuple[dict[str, Map], ...]:
    """Spread a map of groups over heads and channels: per teacher, the maps of query, key, value and output.

    Args:
        units: how each teacher's groups reach the student's, [g_k, g].
        spaces: each teacher's attention space, its heads like the student's.
        student: the student's attention space.
        statistics: what query heads and channels are matched by.
    """
    per_group, d = student.heads // student.groups, student.head_dim
    members = _members(spaces)
    mass = torch.cat([one.push for one in units.maps])
    built: list[dict[Role, tuple[Tensor, Tensor]]] = [
        {role: (_empty(space, student, role), _empty(space, student, role)) for role in Role} for space in spaces
    ]
    for target in range(student.groups):
        reference = members[int(mass[:, target].argmax())]
        for member in members:
            push = float(units.maps[member.teacher].push[member.group, target])
            pull = float(units.maps[member.teacher].pull[member.group, target])
            if push == 0 and pull == 0:
                continue
            matched = _match(member, reference, statistics, d, rotary=student.rotary)
            pushes, pulls = built[member.teacher][Role.HEADS]
            for position, source in enumerate(matched.query_heads):
                pushes[source, target * per_group + position] = push
                pulls[source, target * per_group + position] = pull
            for role, sources, order in matched.blocks():
                heads = per_group if role in (Role.QUERY, Role.OUTPUT) else 1
                pushes, pulls = built[member.teacher][role]
                for position, source in enumerate(sources):
                    rows = source * d + order
                    columns = torch.arange((target * heads + position) * d, (target * heads + position + 1) * d)
                    pushes[rows, columns] = push
                    pulls[rows, columns] = pull
    return tuple({map_key(student.name, role): Map(*pair) for role, pair in roles.items()} for roles in built)


@dataclass(frozen=True)
class _Matched:
    """For one member: its query heads in the reference's order, and its channels in the reference's order."""

    query_heads: list[int]
    group: int
    match: Tensor
    carry: Tensor

    def blocks(self) -> list[tuple[Role, list[int], Tensor]]:
        return [
            (Role.QUERY, self.query_heads, self.match),
            (Role.KEY, [self.group], self.match),
            (Role.VALUE, [self.group], self.carry),
            (Role.OUTPUT, self.query_heads, self.carry),
        ]


def _match(member: _Member, reference: _Member, statistics: HeadStatistics, d: int, *, rotary: bool) -> _Matched:
    still = torch.arange(d)
    own = list(range(member.group * len(member.query_heads), (member.group + 1) * len(member.query_heads)))
    if member == reference:
        return _Matched(own, member.group, still, still)
    heads = _assign(_block(statistics.contributions, reference.query_heads, member.query_heads))
    pairs = [(reference.query_heads[i], member.query_heads[int(j)]) for i, j in enumerate(heads)]
    match = still
    if not rotary:
        likeness = _channels(statistics.keys, reference.key_group, member.key_group, d)
        likeness = likeness + sum(_channels(statistics.queries, a, b, d) for a, b in pairs)
        match = _assign(likeness)
    carry = _assign(torch.stack([_channels(statistics.carry, a, b, d) for a, b in pairs]).sum(0))
    return _Matched([own[int(j)] for j in heads], member.group, match, carry)


def _assign(likeness: Tensor) -> Tensor:
    """For each reference item the matched one: hard transport between equal sizes, by greatest inner product.

    For equal sizes |x - y|² and -2<x, y> have the same optimal permutation.
    """
    n = likeness.shape[0]
    coupling = solve("emd", likeness.max() - likeness, uniform(n), uniform(n), space="channels")
    return coupling.plan.argmax(dim=1)


def _block(matrix: Tensor, rows: range, columns: range) -> Tensor:
    return matrix[rows.start : rows.stop, columns.start : columns.stop]


def _channels(gram: Tensor, one: int, other: int, d: int) -> Tensor:
    return _block(gram, range(one * d, (one + 1) * d), range(other * d, (other + 1) * d))


def _members(spaces: Sequence[Space]) -> list[_Member]:
    members, heads, groups = [], 0, 0
    for teacher, space in enumerate(spaces):
        per_group = space.heads // space.groups
        for group in range(space.groups):
            first = heads + group * per_group
            members.append(_Member(teacher, group, range(first, first + per_group), groups + group))
        heads, groups = heads + space.heads, groups + space.groups
    return members


def _empty(teacher: Space, student: Space, role: Role) -> Tensor:
    counts = [space.groups if role in (Role.KEY, Role.VALUE) else space.heads for space in (teacher, student)]
    sizes = [1, 1] if role is Role.HEADS else [teacher.head_dim, student.head_dim]
    return torch.zeros(counts[0] * sizes[0], counts[1] * sizes[1], dtype=torch.float64)


def placed_groups(problem: UnitProblem) -> UnitMap:
    """Heads that have a place (ALiBi's slope): each comes from the same place of the teacher to whom it matters most.

    With n heads of slopes 2^(-8 j / n), j = 1 … n, the student's j-th of m has the slope of the teacher's j n / m-th.
    """
    counts = [size // problem.block for size in problem.sizes]
    importance = problem.importance().split(counts)
    places = [torch.ceil(torch.arange(1, problem.units + 1) * n / problem.units).long() - 1 for n in counts]
    offsets = [sum(counts[:k]) for k in range(len(counts))]
    owners = torch.stack([part[place] for part, place in zip(importance, places, strict=True)]).argmax(dim=0)
    return chosen_units(problem, torch.stack([places[k][j] + offsets[k] for j, k in enumerate(owners.tolist())]))
