"""Align teachers to an anchor along the flow graph.

Imfeld et al. (2024), Algorithm 1 and section 4: linear outputs get maps, which pass norms unchanged, junctions by a
policy, and attention as one map for queries and keys and one for values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compressor.anatomy import Kind, LinearOp, Map, Role, Space, map_key
from compressor.anatomy.sites import FlowGraph, Junction
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.anchored.attention_maps import AttentionCouplings, across_heads, logit_scale, within_heads
from compressor.fusion.anchored.compact import CompactCoupling, pooled_compact_maps
from compressor.fusion.anchored.comparison import FeatureComparison
from compressor.fusion.anchored.policies import Policy, outgoing_coupling
from compressor.fusion.anchored.schedule import START, Schedule
from compressor.fusion.teacher import FusionTeacher
from compressor.recipe import AlignmentOptions
from compressor.transport import Coupling, CouplingOptions, Moments, from_importance, identity_coupling


@dataclass(frozen=True, eq=False)
class AlignedMaps:
    """The teachers' maps of one key.

    Attributes:
        maps: pushes include α.
    """

    key: str
    maps: tuple[Map, ...]
    summaries: tuple[dict[str, Any], ...]


class Alignment:
    """Maps of all teachers to an anchor's coordinates, made on request along the flow.

    Raises:
        UserError: an option is unknown or does not fit the models.
        UnsupportedError: these teachers cannot be aligned.
    """

    def __init__(
        self,
        graph: FlowGraph,
        teachers: Sequence[FusionTeacher],
        anchor: FusionTeacher,
        comparison: FeatureComparison,
        policy: Policy,
        options: AlignmentOptions,
        coupling: CouplingOptions,
        lap: Callable[[str], None] = lambda stage: None,
    ) -> None:
        _check(graph, teachers, anchor)
        self.schedule, self._lap = Schedule(graph), lap
        self._weights = [teacher.weight for teacher in teachers]
        self._one_matrix = options.scaling == "one-matrix"
        self._next = START
        self._passes = [
            _TeacherPass(graph, self.schedule, k, teacher, anchor, comparison, policy, options, coupling)
            for k, teacher in enumerate(teachers)
        ]

    def until(self, keys: Iterable[str]) -> list[AlignedMaps]:
        """Follow the flow until these keys have maps.

        Returns:
            New maps, not kept here.

        Raises:
            UserError, UnsupportedError: as above.
            CouplingError: a transport problem could not be solved.
        """
        last = max((self.schedule.made.get(key, START) for key in keys), default=START)
        aligned: list[AlignedMaps] = []
        if self._next <= last:
            self._lap("build")
        while self._next <= last:
            couplings = [each.advance(self._next) for each in self._passes]
            aligned += [self._pooled(key, [by_key[key] for by_key in couplings]) for key in couplings[0]]
            self._next += 1
            self._lap("solve")
        return aligned

    def _pooled(self, key: str, couplings: Sequence[CompactCoupling]) -> AlignedMaps:
        scales = [each.scales.get(key, 1.0) for each in self._passes]
        maps = pooled_compact_maps(couplings, self._weights, scales, one_matrix=self._one_matrix)
        return AlignedMaps(key, maps, tuple(coupling.summary for coupling in couplings))


def _check(graph: FlowGraph, teachers: Sequence[FusionTeacher], anchor: FusionTeacher) -> None:
    if any(space.kind is Kind.EXPERTS for space in graph.anatomy.spaces.values()):
        raise UnsupportedError(
            f"{graph.anatomy.model_class}: experts cannot be aligned to an anchor; take --residual auto or barycentre"
        )
    for teacher in teachers:
        for stack, other in zip(teacher.anatomy.stacks, anchor.anatomy.stacks, strict=True):
            if stack.runs != other.runs:
                raise UnsupportedError(
                    f"{teacher.name} and the anchor {anchor.name} run their shared layer unlike often"
                )


class _TeacherPass:
    """One teacher's pass."""

    def __init__(
        self,
        graph: FlowGraph,
        schedule: Schedule,
        index: int,
        teacher: FusionTeacher,
        anchor: FusionTeacher,
        comparison: FeatureComparison,
        policy: Policy,
        options: AlignmentOptions,
        coupling: CouplingOptions,
    ) -> None:
        self.graph, self.schedule, self.index, self.teacher, self.anchor = graph, schedule, index, teacher, anchor
        self.comparison, self.policy, self.options, self.coupling = comparison, policy, options, coupling
        self.anatomy = graph.anatomy
        self.is_anchor = teacher.model is anchor.model
        self.made: dict[str, CompactCoupling] = {}
        #: Couplings that meet at a later junction, and maps of inputs of later modules.
        self.couplings: dict[str, Coupling] = {}
        self.maps: dict[str, Map] = {}
        self.scales: dict[str, float] = {}
        self.orders: dict[str, Coupling] = {}

    def advance(self, place: int) -> dict[str, CompactCoupling]:
        """Make the maps of the next place."""
        self.made = {}
        if place == START:
            for entry in dict.fromkeys(self.graph.entries):
                self._keep(entry, self._entry(entry))
            for name in self.schedule.unwritten:
                self._keep(name, self._couple(name))
        else:
            item = self.anatomy.flow[place]
            if isinstance(item, LinearOp):
                self._write(item, place)
            for junction in self.schedule.junctions[place]:
                self._keep(junction.after, self._leave(junction))
        for known in (self.couplings, self.maps):
            for key in [key for key in known if self.schedule.needed.get(key, START) <= place]:
                del known[key]
        return self.made

    def _entry(self, key: str) -> Coupling:
        if self.policy.start != "identity":
            return self._couple(key)
        n, m = self.teacher.space(key).size, self.anchor.space(key).size
        if n != m:
            raise UserError(
                f"the residual policy 'identity' needs teachers of the anchor's width: {self.teacher.name} has {n} and "
                f"{self.anchor.name} {m}"
            )
        return identity_coupling(n, space=key)

    def _write(self, op: LinearOp, place: int) -> None:
        """Map an output, at its first writer."""
        space = self.anatomy.spaces.get(op.writes or "")
        if space is None:
            return
        first = map_key(space.name, Role.QUERY) if space.kind is Kind.ATTENTION else space.name
        if self.schedule.made[first] != place:
            return
        if space.kind is Kind.ATTENTION:
            for role, coupling in self._attention(space).items():
                self._keep(map_key(space.name, role), coupling)
        else:
            self._keep(space.name, self._couple(space.name))

    def _attention(self, space: Space) -> dict[Role, Coupling]:
        teacher, anchor = self.teacher.space(space.name), self.anchor.space(space.name)
        across = self.options.heads == "across"
        if self.is_anchor or self.policy.start == "identity":
            if (teacher.heads, teacher.groups, teacher.head_dim) != (anchor.heads, anchor.groups, anchor.head_dim):
                raise UserError(f"{self.teacher.name}: identity needs the anchor's heads in {space.name}")
            channels = teacher.groups * teacher.head_dim
            counts = {Role.HEADS: teacher.heads, Role.KEY: channels, Role.VALUE: channels}
            roles = [role for role in Role if role is not Role.HEADS or not across]
            return {role: identity_coupling(counts.get(role, teacher.size), space=space.name) for role in roles}
        keys = {role: map_key(space.name, role) for role in (Role.QUERY, Role.KEY, Role.OUTPUT)}
        moments = {role: self.comparison.moments(self.index, key, self.maps) for role, key in keys.items()}
        outgoing = self._outgoing_norms(space.name) if self.options.marginals == "outgoing" else None
        attention = AttentionCouplings(
            teacher, anchor, moments,
            couple=lambda m, name: self._solve(m, name, outgoing if len(m.xx) == teacher.size else None),
            couple_hard=lambda m, name: replace(self.coupling, solver="emd").couple(m, space=name),
            query_key=self.options.query_key,
            groups=self.orders.get(space.order or ""),
        )  # fmt: skip
        couplings = (across_heads if across else within_heads)(attention)
        if space.order and Role.HEADS in couplings:
            self.orders[space.order] = couplings[Role.HEADS]
        self.scales[map_key(space.name, Role.QUERY)] = logit_scale(teacher, anchor)
        return couplings

    def _couple(self, key: str) -> Coupling:
        teacher, anchor = self.teacher.space(key), self.anchor.space(key)
        if self.is_anchor or self.policy.start == "identity":
            if teacher.size != anchor.size:
                raise UserError(f"{self.teacher.name}: identity needs the anchor's size of {key}")
            return identity_coupling(teacher.size, space=key)
        moments = self.comparison.moments(self.index, key, self.maps)
        return self._solve(moments, key, self._outgoing_norms(key) if self.options.marginals == "outgoing" else None)

    def _solve(self, moments: Moments, name: str, outgoing: tuple[Tensor, Tensor] | None) -> Coupling:
        mu = nu = None
        if self.options.marginals != "uniform":
            x, y = outgoing or (moments.xx.clamp(min=0).sqrt(), moments.yy.clamp(min=0).sqrt())
            mu, nu = from_importance(x, space=name), from_importance(y, space=name)
        return self.coupling.couple(moments, mu, nu, space=name)

    def _outgoing_norms(self, key: str) -> tuple[Tensor, Tensor] | None:
        """Norms of both models' outgoing weights."""
        joins = next((op.joins for op in self.anatomy.steps if op.writes == key), None)
        readers = [op for op in self.anatomy.steps if op.reads in (key, joins or key) and not op.tied]
        if not readers:
            return None
        norms = [
            torch.stack([model.read_weight(op).square().sum(1) for op in readers]).sum(0).sqrt()
            for model in (self.teacher, self.anchor)
        ]
        return norms[0], norms[1]

    def _leave(self, junction: Junction) -> Coupling:
        keys = (junction.before, *junction.branches)
        couplings = [self.couplings[key] for key in keys]
        if self.policy.weighs and not self.is_anchor:
            strengths = [self.comparison.strength(key) for key in keys]
        else:
            strengths = [torch.ones_like(couplings[0].nu)] * len(couplings)
        return replace(outgoing_coupling(self.policy, couplings, strengths), space=junction.after)

    def _keep(self, key: str, coupling: Coupling) -> None:
        compact = CompactCoupling.of(coupling)
        self.made[key] = compact
        if key in self.schedule.mixed:
            self.couplings[key] = coupling
        if key in self.schedule.needed:
            self.maps[key] = compact.map(one_matrix=self.options.scaling == "one-matrix")
