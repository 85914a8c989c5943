"""Aligning teachers to an anchor: one pass along the flow graph makes every map of every teacher.

Imfeld et al. (2024), Algorithm 1 and section 4: a map is made wherever a linear module writes, from activations or from
weights whose inputs are transported already; it flows along the residual stream by the chosen policy, through norms
unchanged, and through attention by one map for queries and keys and one for values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressor.anatomy import Kind, Map, Norm, Role, Space, Step, map_key
from compressor.anatomy.sites import FlowGraph, Junction
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.anchored.attention import Heads, across_heads, logit_scale, within_heads
from compressor.fusion.anchored.comparison import Comparison
from compressor.fusion.anchored.policies import Policy, leave
from compressor.fusion.residual import ResidualMap, pooled_maps
from compressor.fusion.sources import Source
from compressor.recipe import AlignmentOptions
from compressor.transport import Aligner, Coupling, Moments, from_importance, identity


def align(
    graph: FlowGraph,
    sources: Sequence[Source],
    guide: Source,
    comparison: Comparison,
    policy: Policy,
    options: AlignmentOptions,
) -> dict[str, ResidualMap]:
    """The maps of all teachers to an anchor's coordinates.

    Args:
        graph: the student's flow; the teachers' have the same sites.
        sources: the teachers; one whose model is the anchor's keeps its coordinates.
        guide: the anchor.
        comparison: moments of a teacher's coordinates with the anchor's.
        policy: what leaves the junctions of the residual stream.
        options: features, cost, solver, marginals, heads, queries and keys, scaling.

    Returns:
        {map key: per teacher a map, pushes carrying α, and its coupling}.

    Raises:
        UserError: an option names nothing known, or does not fit the models.
        UnsupportedError: something about these teachers cannot be aligned.
        CouplingError: a transport problem could not be solved.
    """
    _check(graph, sources, guide)
    found = [_Walk(graph, k, source, guide, comparison, policy, options).go() for k, source in enumerate(sources)]
    weights = [source.weight for source in sources]
    maps = {}
    for key in found[0].couplings:
        couplings = [walk.couplings[key] for walk in found]
        pooled = pooled_maps(couplings, weights)
        if options.scaling == "one-matrix":
            pooled = tuple(Map(one.push, c.push()) for one, c in zip(pooled, couplings, strict=True))
        pooled = tuple(
            Map(one.push * walk.scales.get(key, 1.0), one.pull) for one, walk in zip(pooled, found, strict=True)
        )
        maps[key] = ResidualMap(pooled, tuple(couplings))
    return maps


def _check(graph: FlowGraph, sources: Sequence[Source], guide: Source) -> None:
    if any(space.kind is Kind.EXPERTS for space in graph.anatomy.spaces.values()):
        raise UnsupportedError(
            f"{graph.anatomy.model_class}: experts cannot be aligned to an anchor; take --residual auto or barycentre"
        )
    for source in sources:
        for one, other in zip(source.anatomy.stacks, guide.anatomy.stacks, strict=True):
            if one.runs != other.runs:
                raise UnsupportedError(f"{source.name} and the anchor {guide.name} run their shared layer unlike often")


@dataclass(frozen=True, eq=False)
class _Aligned:
    """One teacher's couplings by map key, and what pushes are multiplied by."""

    couplings: dict[str, Coupling]
    scales: dict[str, float]


class _Walk:
    """One teacher's way along the flow graph."""

    def __init__(
        self,
        graph: FlowGraph,
        teacher: int,
        source: Source,
        guide: Source,
        comparison: Comparison,
        policy: Policy,
        options: AlignmentOptions,
    ) -> None:
        self.graph, self.teacher, self.source, self.guide = graph, teacher, source, guide
        self.comparison, self.policy, self.options = comparison, policy, options
        self.anatomy = graph.anatomy
        self.aligner = Aligner(
            options.cost, options.preparation, options.normalise, options.solver, options.epsilon, options.mass,
            options.relaxation,
        )  # fmt: skip
        self.still = source.model is guide.model
        self.couplings: dict[str, Coupling] = {}
        self.maps: dict[str, Map] = {}
        self.scales: dict[str, float] = {}
        self.orders: dict[str, Coupling] = {}

    def go(self) -> _Aligned:
        for entry in dict.fromkeys(self.graph.entries):
            self._set(entry, self._entry(entry))
        for space in self.anatomy.spaces.values():
            unread = space.kind is Kind.HIDDEN and not any(step.writes == space.name for step in self.anatomy.steps)
            if space.kind is Kind.EMBEDDING or unread:
                self._set(space.name, self._couple(space.name))
        for item in self.anatomy.flow:
            if isinstance(item, Step):
                self._write(item)
            for junction in self.graph.junctions:
                if junction.branches[-1] == self._adds(item):
                    self._set(junction.after, self._leave(junction))
        return _Aligned(self.couplings, self.scales)

    def _entry(self, key: str) -> Coupling:
        if self.policy.start != "identity":
            return self._couple(key)
        n, m = self.source.space(key).size, self.guide.space(key).size
        if n != m:
            raise UserError(
                f"the residual policy 'identity' needs teachers of the anchor's width: {self.source.name} has {n} and "
                f"{self.guide.name} {m}"
            )
        return identity(n, space=key)

    def _write(self, step: Step) -> None:
        """Make the map of what a module writes, at the first of its writers."""
        space = self.anatomy.spaces.get(step.writes or "")
        if space is None or space.name in self.couplings or map_key(space.name, Role.QUERY) in self.couplings:
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
            return {role: identity(counts.get(role, own.size), space=space.name) for role in roles}
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
            return identity(own.size, space=key)
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
        meets = next((step.meets for step in self.anatomy.steps if step.writes == key), None)
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
        return replace(leave(self.policy, met, strengths), space=junction.after)

    @staticmethod
    def _adds(item: Step | Norm) -> str | None:
        """The branch that an item adds to the stream, if it does."""
        if item.meets is None:
            return None
        return item.writes if isinstance(item, Step) else item.space

    def _set(self, key: str, coupling: Coupling) -> None:
        self.couplings[key] = coupling
        push = coupling.push()
        self.maps[key] = Map(push, push if self.options.scaling == "one-matrix" else coupling.pull())
