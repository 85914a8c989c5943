"""Aligning teachers to an anchor: one pass along the flow graph makes every map of every teacher.

Imfeld et al. (2024), Algorithm 1 and section 4: a map is made wherever a linear module writes, from activations or from
weights whose inputs are transported already; it flows along the residual stream by the chosen policy, through norms
unchanged, and through attention by one map for queries and keys and one for values.
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
from compressor.fusion.anchored.attention_maps import Heads, across_heads, logit_scale, within_heads
from compressor.fusion.anchored.compact import CompactCoupling, pooled_compact_maps
from compressor.fusion.anchored.comparison import FeatureComparison
from compressor.fusion.anchored.policies import Policy, outgoing_coupling
from compressor.fusion.anchored.schedule import START, Schedule
from compressor.fusion.teacher import FusionTeacher
from compressor.recipe import AlignmentOptions
from compressor.transport import Coupling, CouplingOptions, Moments, from_importance, identity_coupling


@dataclass(frozen=True, eq=False)
class Aligned:
    """What came of one map key: per teacher the map, its push carrying α, and the figures of its coupling."""

    key: str
    maps: tuple[Map, ...]
    summaries: tuple[dict[str, Any], ...]


class Alignment:
    """The maps of all teachers to an anchor's coordinates, made along the flow as they are asked for.

    Args:
        graph: the student's flow; the teachers' have the same sites.
        sources: the teachers; one whose model is the anchor's keeps its coordinates.
        guide: the anchor.
        comparison: moments of a teacher's coordinates with the anchor's.
        policy: what leaves the junctions of the residual stream.
        options: features, cost, solver, marginals, heads, queries and keys, scaling.
        lap: told "build" where an alignment begins and "solve" where it ends, for the report's seconds.

    Raises:
        UserError: an option names nothing known, or does not fit the models.
        UnsupportedError: something about these teachers cannot be aligned.
    """

    def __init__(
        self,
        graph: FlowGraph,
        sources: Sequence[FusionTeacher],
        guide: FusionTeacher,
        comparison: FeatureComparison,
        policy: Policy,
        options: AlignmentOptions,
        lap: Callable[[str], None] = lambda stage: None,
    ) -> None:
        _check(graph, sources, guide)
        self.schedule, self._lap = Schedule(graph), lap
        self._weights = [source.weight for source in sources]
        self._one_matrix = options.scaling == "one-matrix"
        self._end = len(graph.anatomy.flow)
        self._next = START
        self._walks = [
            _Walk(graph, self.schedule, k, source, guide, comparison, policy, options)
            for k, source in enumerate(sources)
        ]

    def until(self, keys: Iterable[str]) -> list[Aligned]:
        """Go on along the flow until the maps of these keys are made.

        Returns:
            What was made on the way and not returned before.  It is not kept here.

        Raises:
            UserError, UnsupportedError: as above, of a place that is reached now.
            CouplingError: a transport problem could not be solved.
        """
        last = max((self.schedule.made.get(key, START) for key in keys), default=START)
        found: list[Aligned] = []
        if self._next <= last:
            self._lap("build")
        while self._next <= last:
            made = [walk.go(self._next) for walk in self._walks]
            found += [self._pooled(key, [own[key] for own in made]) for key in made[0]]
            self._next += 1
            self._lap("solve")
        return found

    def _pooled(self, key: str, kept: Sequence[CompactCoupling]) -> Aligned:
        scales = [walk.scales.get(key, 1.0) for walk in self._walks]
        maps = pooled_compact_maps(kept, self._weights, scales, one_matrix=self._one_matrix)
        return Aligned(key, maps, tuple(one.summary for one in kept))


def _check(graph: FlowGraph, sources: Sequence[FusionTeacher], guide: FusionTeacher) -> None:
    if any(space.kind is Kind.EXPERTS for space in graph.anatomy.spaces.values()):
        raise UnsupportedError(
            f"{graph.anatomy.model_class}: experts cannot be aligned to an anchor; take --residual auto or barycentre"
        )
    for source in sources:
        for one, other in zip(source.anatomy.stacks, guide.anatomy.stacks, strict=True):
            if one.runs != other.runs:
                raise UnsupportedError(f"{source.name} and the anchor {guide.name} run their shared layer unlike often")


class _Walk:
    """One teacher's way along the flow graph."""

    def __init__(
        self,
        graph: FlowGraph,
        schedule: Schedule,
        teacher: int,
        source: FusionTeacher,
        guide: FusionTeacher,
        comparison: FeatureComparison,
        policy: Policy,
        options: AlignmentOptions,
    ) -> None:
        self.graph, self.schedule, self.teacher, self.source, self.guide = graph, schedule, teacher, source, guide
        self.comparison, self.policy, self.options = comparison, policy, options
        self.anatomy = graph.anatomy
        self.aligner = CouplingOptions(
            options.cost, options.preparation, options.normalise, options.solver, options.epsilon, options.mass,
            options.relaxation,
        )  # fmt: skip
        self.still = source.model is guide.model
        self.made: dict[str, CompactCoupling] = {}
        #: What later places are made from: couplings that meet at a junction, and maps of what is read.
        self.couplings: dict[str, Coupling] = {}
        self.maps: dict[str, Map] = {}
        self.scales: dict[str, float] = {}
        self.orders: dict[str, Coupling] = {}

    def go(self, place: int) -> dict[str, CompactCoupling]:
        """Make the maps of one place of the flow, the next."""
        self.made = {}
        if place == START:
            for entry in dict.fromkeys(self.graph.entries):
                self._set(entry, self._entry(entry))
            for name in self.schedule.unwritten:
                self._set(name, self._couple(name))
        else:
            item = self.anatomy.flow[place]
            if isinstance(item, LinearOp):
                self._write(item, place)
            for junction in self.schedule.junctions[place]:
                self._set(junction.after, self._leave(junction))
        for known in (self.couplings, self.maps):
            for key in [key for key in known if self.schedule.asked.get(key, START) <= place]:
                del known[key]
        return self.made

    def _entry(self, key: str) -> Coupling:
        if self.policy.start != "identity":
            return self._couple(key)
        n, m = self.source.space(key).size, self.guide.space(key).size
        if n != m:
            raise UserError(
                f"the residual policy 'identity' needs teachers of the anchor's width: {self.source.name} has {n} and "
                f"{self.guide.name} {m}"
            )
        return identity_coupling(n, space=key)

    def _write(self, step: LinearOp, place: int) -> None:
        """Make the map of what a module writes, at the first of its writers."""
        space = self.anatomy.spaces.get(step.writes or "")
        if space is None:
            return
        first = map_key(space.name, Role.QUERY) if space.kind is Kind.ATTENTION else space.name
        if self.schedule.made[first] != place:
            return
        if space.kind is Kind.ATTENTION:
            for role, coupling in self._attention(space).items():
                self._set(map_key(space.name, role), coupling)
        else:
            self._set(space.name, self._couple(space.name))

    def _attention(self, space: Space) -> dict[Role, Coupling]:
        own, anchor = self.source.space(space.name), self.guide.space(space.name)
        if self.still or self.policy.start == "identity":
            if (own.heads, own.groups, own.head_dim) != (anchor.heads, anchor.groups, anchor.head_dim):
                raise UserError(f"{self.source.name}: identity needs the anchor's heads in {space.name}")
            counts = {Role.HEADS: own.heads, Role.KEY: own.groups * own.head_dim, Role.VALUE: own.groups * own.head_dim}
            roles = [role for role in Role if role is not Role.HEADS or self.options.heads != "across"]
            return {role: identity_coupling(counts.get(role, own.size), space=space.name) for role in roles}
        keys = {role: map_key(space.name, role) for role in (Role.QUERY, Role.KEY, Role.OUTPUT)}
        moments = {role: self.comparison.moments(self.teacher, key, self.maps) for role, key in keys.items()}
        outgoing = self._outgoing(space.name) if self.options.marginals == "outgoing" else None
        heads = Heads(
            own, anchor, moments,
            couple=lambda m, name: self._by(m, name, outgoing if len(m.xx) == own.size else None),
            couple_hard=lambda m, name: replace(self.aligner, solver="emd").couple(m, space=name),
            query_key=self.options.query_key,
            groups=self.orders.get(space.order or ""),
        )  # fmt: skip
        found = (across_heads if self.options.heads == "across" else within_heads)(heads)
        if space.order and Role.HEADS in found:
            self.orders[space.order] = found[Role.HEADS]
        self.scales[map_key(space.name, Role.QUERY)] = logit_scale(own, anchor)
        return found

    def _couple(self, key: str) -> Coupling:
        own, anchor = self.source.space(key), self.guide.space(key)
        if self.still or self.policy.start == "identity":
            if own.size != anchor.size:
                raise UserError(f"{self.source.name}: identity needs the anchor's size of {key}")
            return identity_coupling(own.size, space=key)
        moments = self.comparison.moments(self.teacher, key, self.maps)
        return self._by(moments, key, self._outgoing(key) if self.options.marginals == "outgoing" else None)

    def _by(self, moments: Moments, name: str, outgoing: tuple[Tensor, Tensor] | None) -> Coupling:
        mu = nu = None
        if self.options.marginals != "uniform":
            x, y = outgoing or (moments.xx.clamp(min=0).sqrt(), moments.yy.clamp(min=0).sqrt())
            mu, nu = from_importance(x, space=name), from_importance(y, space=name)
        return self.aligner.couple(moments, mu, nu, space=name)

    def _outgoing(self, key: str) -> tuple[Tensor, Tensor] | None:
        """Norms of the outgoing weights of the teacher's and the anchor's coordinates; None where nothing reads."""
        meets = next((step.joins for step in self.anatomy.steps if step.writes == key), None)
        steps = [step for step in self.anatomy.steps if step.reads in (key, meets or key) and not step.tied]
        if not steps:
            return None
        both = [
            torch.stack([one.read_weight(step).square().sum(1) for step in steps]).sum(0).sqrt()
            for one in (self.source, self.guide)
        ]
        return both[0], both[1]

    def _leave(self, junction: Junction) -> Coupling:
        met = [self.couplings[key] for key in (junction.before, *junction.branches)]
        if self.policy.weighs and not self.still:
            strengths = [self.comparison.strength(key) for key in (junction.before, *junction.branches)]
        else:
            strengths = [torch.ones_like(met[0].nu)] * len(met)
        return replace(outgoing_coupling(self.policy, met, strengths), space=junction.after)

    def _set(self, key: str, coupling: Coupling) -> None:
        kept = CompactCoupling.of(coupling)
        self.made[key] = kept
        if key in self.schedule.mixed:
            self.couplings[key] = coupling
        if key in self.schedule.asked:
            self.maps[key] = kept.map(one_matrix=self.options.scaling == "one-matrix")
