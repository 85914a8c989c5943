"""Couplings of attention to an anchor's: across all heads as in the paper, or within heads once these are matched.

Queries and keys are contracted with each other, so their maps must be one for the logits to stay; values and the
output projection share another (Imfeld et al., 2024, section 4.2 and appendix).  Within heads the transport is
hierarchical: the ground cost between two heads is what transporting their channels costs.
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
class Heads:
    """One teacher's attention beside the anchor's.

    Attributes:
        own, anchor: their spaces.
        moments: of queries, keys, and what the output projection reads.
        couple: the coupling asked for.
        couple_hard: an exact coupling, which ground costs between heads are measured by.
        query_key: joint, separate or equal.
        groups: the coupling of key–value groups, where another space has decided it already.
    """

    own: Space
    anchor: Space
    moments: Mapping[Role, Moments]
    couple: Couple
    couple_hard: Couple
    query_key: str
    groups: Coupling | None = None


def across_heads(heads: Heads) -> dict[Role, Coupling]:
    """All channels of all heads coupled at once: head boundaries are ignored, as in the paper.

    Raises:
        UnsupportedError: channels or heads have a place, or several query heads share keys.
    """
    own, anchor = heads.own, heads.anchor
    for space in (own, anchor):
        if space.rotary or space.head_position_fixed or space.order or space.heads != space.groups:
            raise UnsupportedError(
                f"{anchor.name}: its channels or heads have a place (rotary or relative positions) or share keys, so "
                f"they cannot be coupled across heads; take --heads within"
            )
    carry = heads.couple(heads.moments[Role.OUTPUT], anchor.name)
    query, key = _query_key(heads, heads.moments[Role.QUERY], heads.moments[Role.KEY])
    return {Role.QUERY: query, Role.KEY: key, Role.VALUE: carry, Role.OUTPUT: carry}


def within_heads(heads: Heads) -> dict[Role, Coupling]:
    """Key–value groups are coupled first, then query heads inside them, then channels inside heads.

    Raises:
        UnsupportedError: heads or channels have a place and their number differs.
    """
    own, anchor = heads.own, heads.anchor
    pairs = {(g, h): _Pair(heads, g, h) for g in range(own.groups) for h in range(anchor.groups)}
    groups = heads.groups or _group_coupling(heads, pairs)
    plans = {role: torch.zeros(_size(own, role), _size(anchor, role), dtype=torch.float64) for role in Role}
    for (g, h), pair in pairs.items():
        mass = float(groups.plan[g, h])
        if mass > 0:
            pair.spread(mass, plans)
    found = {}
    for role, plan in plans.items():
        cost = groups.cost_value if role is Role.HEADS else None
        found[role] = Coupling(plan, plan.sum(1), plan.sum(0), cost, groups.solver, f"{anchor.name}/{role.value}")
    return found


def logit_scale(own: Space, anchor: Space) -> float:
    """What queries are multiplied by so that a sum over fewer channels, each a mean of several, keeps its size."""
    ratio = own.head_dim / anchor.head_dim
    return math.sqrt(ratio) if anchor.scaled else ratio


def _query_key(heads: Heads, queries: Moments, keys: Moments) -> tuple[Coupling, Coupling]:
    name = heads.anchor.name
    if heads.query_key == "separate":
        return heads.couple(queries, f"{name}/query"), heads.couple(keys, f"{name}/key")
    one = heads.couple(queries if heads.query_key == "equal" else sum_moments([queries, keys]), f"{name}/query-key")
    return one, one


def _group_coupling(heads: Heads, pairs: Mapping[tuple[int, int], _Pair]) -> Coupling:
    own, anchor = heads.own, heads.anchor
    if own.head_position_fixed or anchor.head_position_fixed:
        if own.groups != anchor.groups:
            raise UnsupportedError(
                f"{anchor.name}: heads have a place (ALiBi), so {own.groups} cannot be aligned to {anchor.groups}"
            )
        return identity_coupling(own.groups, space=anchor.name)
    cost = torch.tensor([[pairs[g, h].cost for h in range(anchor.groups)] for g in range(own.groups)])
    return solve("emd", cost.double(), space=f"{anchor.name}/heads")


class _Pair:
    """A teacher's group g and the anchor's group h: their query heads and channels matched."""

    def __init__(self, heads: Heads, g: int, h: int) -> None:
        self.heads, self.g, self.h = heads, g, h
        own, anchor = heads.own, heads.anchor
        self.queries = [
            range(s.heads // s.groups * i, s.heads // s.groups * (i + 1)) for s, i in ((own, g), (anchor, h))
        ]
        self.inner = self._match_queries()
        q, carry = self._mean(Role.QUERY), self._mean(Role.OUTPUT)
        self.query, self.key, self.carry = q, self._block(Role.KEY, g, h), carry

    @property
    def cost(self) -> float:
        """What transporting their channels costs."""
        if self._pinned:
            products = sum_moments([self.query, self.key])
            still = (products.xx + products.yy - 2 * products.xy.diagonal()).clamp(min=0).sqrt().mean()
            total = float(still)
        else:
            total = self.heads.couple_hard(sum_moments([self.query, self.key]), self._name).cost_value or 0.0
        return total + (self.heads.couple_hard(self.carry, self._name).cost_value or 0.0)

    def spread(self, mass: float, plans: Mapping[Role, Tensor]) -> None:
        """Add this pair's share of the mass to the plans of every role."""
        own, anchor, heads = self.heads.own, self.heads.anchor, self.heads
        carry = heads.couple(self.carry, f"{self._name}/value").plan
        if self._pinned:
            if own.head_dim != anchor.head_dim:
                raise UnsupportedError(
                    f"{anchor.name}: heads of {own.head_dim} channels cannot be aligned to heads of {anchor.head_dim}: "
                    f"their channels have a place (rotary positions)"
                )
            query = key = identity_coupling(own.head_dim).plan
        else:
            query, key = (one.plan for one in _query_key(heads, self.query, self.key))
        plans[Role.KEY][_slice(own, self.g), _slice(anchor, self.h)] = mass * key
        plans[Role.VALUE][_slice(own, self.g), _slice(anchor, self.h)] = mass * carry
        for a, i in enumerate(self.queries[0]):
            for b, j in enumerate(self.queries[1]):
                share = mass * float(self.inner[a, b])
                plans[Role.HEADS][i, j] = share
                plans[Role.QUERY][_slice(own, i), _slice(anchor, j)] = share * query
                plans[Role.OUTPUT][_slice(own, i), _slice(anchor, j)] = share * carry

    @property
    def _pinned(self) -> bool:
        return self.heads.own.rotary or self.heads.anchor.rotary

    @property
    def _name(self) -> str:
        return f"{self.heads.anchor.name}/head {self.h}"

    def _match_queries(self) -> Tensor:
        """The plan between query heads of the two groups, sums to one."""
        sizes = [len(one) for one in self.queries]
        if sizes == [1, 1]:
            return torch.ones(1, 1, dtype=torch.float64)
        cost = torch.zeros(sizes[0], sizes[1], dtype=torch.float64)
        for a, i in enumerate(self.queries[0]):
            for b, j in enumerate(self.queries[1]):
                cost[a, b] = self.heads.couple_hard(self._block(Role.OUTPUT, i, j), self._name).cost_value or 0.0
        return solve("emd", cost, space=self._name).plan

    def _mean(self, role: Role) -> Moments:
        """Moments over the matched query heads; channels of all heads of a group share one map."""
        parts = [
            self._block(role, i, j)
            for a, i in enumerate(self.queries[0])
            for b, j in enumerate(self.queries[1])
            if self.inner[a, b] > 0
        ]
        return sum_moments(parts) if len(parts) > 1 else parts[0]

    def _block(self, role: Role, i: int, j: int) -> Moments:
        moments = self.heads.moments[role]
        own, other = _slice(self.heads.own, i), _slice(self.heads.anchor, j)
        x = None if moments.x is None else moments.x[own]
        y = None if moments.y is None else moments.y[other]
        return Moments(moments.xx[own], moments.yy[other], moments.xy[own, other], x, y, moments.count)


def _query_heads(space: Space, group: int) -> range:
    per_group = space.heads // space.groups
    return range(per_group * group, per_group * (group + 1))


def _slice(space: Space, head: int) -> slice:
    return slice(head * space.head_dim, (head + 1) * space.head_dim)


def _size(space: Space, role: Role) -> int:
    heads = space.groups if role in (Role.KEY, Role.VALUE) else space.heads
    return heads if role is Role.HEADS else heads * space.head_dim
