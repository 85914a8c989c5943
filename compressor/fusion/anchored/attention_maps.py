"""Couplings of attention to an anchor's, across all heads or within matched ones.

Queries and keys share a map, as do values and output projection (Imfeld et al., 2024, section 4.2 and appendix).
Heads are compared by their channels' transport cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.anatomy import Role, Space
from compressor.errors import UnsupportedError
from compressor.fusion.anchored.comparison import sum_moments
from compressor.transport import Coupling, Moments, identity_coupling, solve

#: Couples coordinates by their moments; the name is for errors and the report.
Couple = Callable[[Moments, str], Coupling]


@dataclass(frozen=True, eq=False)
class AttentionCouplings:
    """One teacher's attention and the anchor's.

    Attributes:
        moments: of queries, keys, and output projection inputs.
        couple_hard: exact, to compare heads.
        query_key: joint, separate or equal.
        groups: known coupling of key–value groups.
    """

    teacher: Space
    anchor: Space
    moments: Mapping[Role, Moments]
    couple: Couple
    couple_hard: Couple
    query_key: str
    groups: Coupling | None = None


def across_heads(attention: AttentionCouplings) -> dict[Role, Coupling]:
    """Couple all channels of all heads, as in the paper.

    Raises:
        UnsupportedError: channels or heads have fixed positions or share keys.
    """
    teacher, anchor = attention.teacher, attention.anchor
    for space in (teacher, anchor):
        if space.rotary or space.head_position_fixed or space.order or space.heads != space.groups:
            raise UnsupportedError(
                f"{anchor.name}: its channels or heads have a place (rotary or relative positions) or share keys, so "
                f"they cannot be coupled across heads; take --align-heads within"
            )
    values = attention.couple(attention.moments[Role.OUTPUT], anchor.name)
    query, key = _couple_query_key(attention, attention.moments[Role.QUERY], attention.moments[Role.KEY])
    return {Role.QUERY: query, Role.KEY: key, Role.VALUE: values, Role.OUTPUT: values}


def within_heads(attention: AttentionCouplings) -> dict[Role, Coupling]:
    """Couple key–value groups, then query heads, then channels.

    Raises:
        UnsupportedError: fixed heads or channels differ in number.
    """
    teacher, anchor = attention.teacher, attention.anchor
    pairs = {(g, h): _GroupPair(attention, g, h) for g in range(teacher.groups) for h in range(anchor.groups)}
    groups = attention.groups or _couple_groups(attention, pairs)
    plans = {role: torch.zeros(_size(teacher, role), _size(anchor, role), dtype=torch.float64) for role in Role}
    for (g, h), pair in pairs.items():
        mass = float(groups.plan[g, h])
        if mass > 0:
            pair.add_to(plans, mass)
    couplings = {}
    for role, plan in plans.items():
        cost = groups.cost_value if role is Role.HEADS else None
        couplings[role] = Coupling(plan, plan.sum(1), plan.sum(0), cost, groups.solver, f"{anchor.name}/{role.value}")
    return couplings


def logit_scale(teacher: Space, anchor: Space) -> float:
    """The factor on queries that keeps logits' size."""
    ratio = teacher.head_dim / anchor.head_dim
    return math.sqrt(ratio) if anchor.scaled else ratio


def _couple_query_key(attention: AttentionCouplings, queries: Moments, keys: Moments) -> tuple[Coupling, Coupling]:
    name = attention.anchor.name
    if attention.query_key == "separate":
        return attention.couple(queries, f"{name}/query"), attention.couple(keys, f"{name}/key")
    moments = queries if attention.query_key == "equal" else sum_moments([queries, keys])
    shared = attention.couple(moments, f"{name}/query-key")
    return shared, shared


def _couple_groups(attention: AttentionCouplings, pairs: Mapping[tuple[int, int], _GroupPair]) -> Coupling:
    teacher, anchor = attention.teacher, attention.anchor
    if teacher.head_position_fixed or anchor.head_position_fixed:
        if teacher.groups != anchor.groups:
            raise UnsupportedError(
                f"{anchor.name}: heads have a place (ALiBi), so {teacher.groups} cannot be aligned to {anchor.groups}"
            )
        return identity_coupling(teacher.groups, space=anchor.name)
    cost = torch.tensor([[pairs[g, h].cost for h in range(anchor.groups)] for g in range(teacher.groups)])
    return solve("emd", cost.double(), space=f"{anchor.name}/heads")


class _GroupPair:
    """A teacher's group g matched to the anchor's h."""

    def __init__(self, attention: AttentionCouplings, g: int, h: int) -> None:
        self.attention, self.g, self.h = attention, g, h
        teacher, anchor = attention.teacher, attention.anchor
        self.query_heads = [
            range(s.heads // s.groups * i, s.heads // s.groups * (i + 1)) for s, i in ((teacher, g), (anchor, h))
        ]
        self.head_plan = self._match_queries()
        self.query, self.output = self._mean(Role.QUERY), self._mean(Role.OUTPUT)
        self.key = self._block(Role.KEY, g, h)

    @property
    def cost(self) -> float:
        """Their channels' transport cost."""
        products = sum_moments([self.query, self.key])
        if self._pinned:
            unmoved = (products.xx + products.yy - 2 * products.xy.diagonal()).clamp(min=0).sqrt().mean()
            total = float(unmoved)
        else:
            total = self.attention.couple_hard(products, self._name).cost_value or 0.0
        return total + (self.attention.couple_hard(self.output, self._name).cost_value or 0.0)

    def add_to(self, plans: Mapping[Role, Tensor], mass: float) -> None:
        """Add this pair's mass to the plans."""
        teacher, anchor, attention = self.attention.teacher, self.attention.anchor, self.attention
        values = attention.couple(self.output, f"{self._name}/value").plan
        if self._pinned:
            if teacher.head_dim != anchor.head_dim:
                raise UnsupportedError(
                    f"{anchor.name}: heads of {teacher.head_dim} channels cannot be aligned to heads of "
                    f"{anchor.head_dim}: their channels have a place (rotary positions)"
                )
            query = key = identity_coupling(teacher.head_dim).plan
        else:
            query, key = (coupling.plan for coupling in _couple_query_key(attention, self.query, self.key))
        plans[Role.KEY][_slice(teacher, self.g), _slice(anchor, self.h)] = mass * key
        plans[Role.VALUE][_slice(teacher, self.g), _slice(anchor, self.h)] = mass * values
        for a, i in enumerate(self.query_heads[0]):
            for b, j in enumerate(self.query_heads[1]):
                share = mass * float(self.head_plan[a, b])
                plans[Role.HEADS][i, j] = share
                plans[Role.QUERY][_slice(teacher, i), _slice(anchor, j)] = share * query
                plans[Role.OUTPUT][_slice(teacher, i), _slice(anchor, j)] = share * values

    @property
    def _pinned(self) -> bool:
        return self.attention.teacher.rotary or self.attention.anchor.rotary

    @property
    def _name(self) -> str:
        return f"{self.attention.anchor.name}/head {self.h}"

    def _match_queries(self) -> Tensor:
        """The plan between their query heads, of mass one."""
        sizes = [len(heads) for heads in self.query_heads]
        if sizes == [1, 1]:
            return torch.ones(1, 1, dtype=torch.float64)
        cost = torch.zeros(sizes[0], sizes[1], dtype=torch.float64)
        for a, i in enumerate(self.query_heads[0]):
            for b, j in enumerate(self.query_heads[1]):
                coupling = self.attention.couple_hard(self._block(Role.OUTPUT, i, j), self._name)
                cost[a, b] = coupling.cost_value or 0.0
        return solve("emd", cost, space=self._name).plan

    def _mean(self, role: Role) -> Moments:
        """Moments over matched heads, which share a map."""
        parts = [
            self._block(role, i, j)
            for a, i in enumerate(self.query_heads[0])
            for b, j in enumerate(self.query_heads[1])
            if self.head_plan[a, b] > 0
        ]
        return sum_moments(parts) if len(parts) > 1 else parts[0]

    def _block(self, role: Role, i: int, j: int) -> Moments:
        moments = self.attention.moments[role]
        rows, columns = _slice(self.attention.teacher, i), _slice(self.attention.anchor, j)
        x = None if moments.x is None else moments.x[rows]
        y = None if moments.y is None else moments.y[columns]
        return Moments(moments.xx[rows], moments.yy[columns], moments.xy[rows, columns], x, y, moments.count)


def _slice(space: Space, head: int) -> slice:
    return slice(head * space.head_dim, (head + 1) * space.head_dim)


def _size(space: Space, role: Role) -> int:
    heads = space.groups if role in (Role.KEY, Role.VALUE) else space.heads
    return heads if role is Role.HEADS else heads * space.head_dim
