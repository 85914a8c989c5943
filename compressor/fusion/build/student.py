"""One student in the making: maps of its spaces, and transported weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy import Anatomy, Kind, Map, Role, Side, Space, map_key
from compressor.fusion.build.ridge import RIDGES
from compressor.fusion.features.base import Features
from compressor.fusion.features.weight_features import WeightFeatures
from compressor.fusion.maps.attention.head_dim import narrowable, narrowed
from compressor.fusion.maps.attention.heads import attention_maps, group_contributions, placed_groups
from compressor.fusion.maps.attention.mixed_head_dims import alike, unlike_maps
from compressor.fusion.maps.attention.rotary import Turning, turning
from compressor.fusion.maps.experts import expert_maps, match_experts
from compressor.fusion.maps.residual import ResidualMap
from compressor.fusion.maps.units import UNIT_MAPS, UnitMap, UnitProblem, restricted_to
from compressor.fusion.plan import BuildPlan
from compressor.fusion.teacher import FusionTeacher
from compressor.transport import Coupling, sketch


@dataclass(frozen=True)
class BuildOptions:
    """How a student is built once its residual map is chosen.

    Attributes:
        inner: name of the map of heads and hidden units.
        cost, solver, epsilon: how its couplings are solved.
        owners: whether each teacher's heads and units may be taken; empty for all.
        from_weights: whether its ground costs are measured on the weights alone, though there is data.
        refit: whether linear modules are refitted.
        ridges: candidate λ of the refit.
        held_out: how many of the last batches choose λ.
        polish: steps of descent on a layer as a whole, behind its linear refit; 0 for none.
    """

    inner: str
    cost: str = "euclidean"
    solver: str = "emd"
    epsilon: float = 0.05
    refit: bool = True
    ridges: tuple[float, ...] = RIDGES
    held_out: int = 0
    owners: tuple[bool, ...] = ()
    from_weights: bool = False
    polish: int = 0


@dataclass(eq=False)
class StudentBuilder:
    """A model of the target config whose weights are made from the teachers.

    Attributes:
        model: its weights are replaced piece by piece.
        anatomy: of the model.
        sources: the teachers.
        residual: their maps of every residual and embedding space; and of every other one, where all were aligned to
            an anchor.
        options: how to build.
        noted: whether couplings and projections are kept for the report; those of a pilot are not.
        couplings, projections, fits: what was done, for the report; projections are maps that are no transport.
        polished: layers that were fitted as a whole, and what that gained.
        unpolished: why no layer could be; empty where they could.
        head: how the head was fitted to the ensemble's probabilities, if it was.
    """

    model: nn.Module
    anatomy: Anatomy
    sources: Sequence[FusionTeacher]
    residual: Mapping[str, ResidualMap]
    options: BuildOptions
    noted: bool = True
    couplings: list[dict[str, Any]] = field(default_factory=list)
    projections: list[dict[str, Any]] = field(default_factory=list)
    fits: list[dict[str, Any]] = field(default_factory=list)
    polished: list[dict[str, Any]] = field(default_factory=list)
    unpolished: str = ""
    head: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.parameters = dict(self.model.named_parameters())
        self.maps: list[dict[str, Map]] = [
            {space: one.maps[k] for space, one in self.residual.items()} for k in range(len(self.sources))
        ]
        for space, one in self.residual.items():
            self._note(space, [{space: own} for own in one.maps], one.couplings)
        self._orders: dict[str, UnitMap] = {}
        self._outline = BuildPlan(self.anatomy)

    def map_spaces(self, names: Sequence[str], features: Features) -> None:
        """Make the maps of hidden and attention spaces that were not given, for all that write or read them."""
        for name in names:
            if not {name, map_key(name, Role.QUERY)}.isdisjoint(self.residual):
                continue
            space = self.anatomy.spaces[name]
            maps: Sequence[dict[str, Map]]
            couplings: Sequence[Coupling] = ()
            if space.kind is Kind.EXPERTS:
                maps = match_experts(space, self.sources, self.maps, self.anatomy)
            elif space.copies > 1:
                maps = self._expert_units(space)
            elif space.kind is Kind.ATTENTION:
                maps, couplings = self._attention(space, features)
            else:
                units = self._units(self._problem(name, features))
                maps, couplings = tuple({name: one} for one in units.maps), units.couplings
            for own, new in zip(self.maps, maps, strict=True):
                own |= new
            self._note(name, maps, couplings)

    def _note(self, space: str, maps: Sequence[Mapping[str, Map]], couplings: Sequence[Coupling]) -> None:
        """Keep for the report what was transported, or what the maps look like where they are no transport."""
        if not self.noted:
            return
        # A space whose heads follow another's order has that one's couplings: they are told under its own name.
        self.couplings += [{**coupling.summary(), "space": space} for coupling in couplings]
        for key in () if couplings else maps[0]:
            pulls = [own[key].pull for own in maps]
            self.projections += [
                # Of experts' units, which have a map each, the mean.
                {
                    "space": key,
                    "source": pull.shape[-2],
                    "target": pull.shape[-1],
                    "plan": sketch(pull.square().reshape(-1, *pull.shape[-2:]).mean(0)),
                }
                for pull in pulls
            ]

    def forget(self, names: Sequence[str]) -> None:
        """Let go of the maps of a layer's own spaces: once the layer is built nothing asks for them."""
        keys = {key for name in names for key in (name, *(map_key(name, role) for role in Role))}
        for own in self.maps:
            for key in own.keys() & keys:
                del own[key]

    def _problem(self, name: str, features: Features) -> UnitProblem:
        return UnitProblem(
            name=name,
            statistics=features.space(name),
            sizes=[source.space(name).size for source in self.sources],
            weights=[source.weight for source in self.sources],
            units=self.anatomy.spaces[name].size,
            cost=self.options.cost,
            solver=self.options.solver,
            epsilon=self.options.epsilon,
        )

    def _units(self, problem: UnitProblem) -> UnitMap:
        owners = self.options.owners or [True] * len(self.sources)
        return restricted_to(UNIT_MAPS.get(self.options.inner), problem, owners)

    def _attention(self, space: Space, features: Features) -> tuple[Sequence[dict[str, Map]], Sequence[Coupling]]:
        """Heads as wholes, then their channels; spaces of one order take their heads from where the first did."""
        theirs = [source.space(space.name) for source in self.sources]
        heads = features.heads(space.name)
        fewer = narrowable(theirs, space)
        if not fewer and not alike(theirs, space):
            importance = self._problem(space.name, features).importance()
            return unlike_maps(theirs, space, heads, importance), ()
        # As many heads of the teachers' size come first; their channels then become fewer.
        whole = replace(space, head_dim=theirs[0].head_dim, size=space.heads * theirs[0].head_dim)
        units = self._orders.get(space.order or "")
        if units is None:
            problem = replace(
                self._problem(space.name, features),
                block=(whole.heads // whole.groups) * whole.head_dim,
                units=space.groups,
                likeness=partial(group_contributions, heads, theirs),
            )
            units = placed_groups(problem) if space.head_position_fixed else self._units(problem)
            if space.order:
                self._orders[space.order] = units
        maps = attention_maps(units, theirs, whole, heads)
        if fewer:
            turns = self._turns(space) if space.rotary else None
            maps = narrowed(maps, theirs, space, heads, turns, spaced=self.options.inner == "slice")
        return maps, units.couplings

    def _turns(self, space: Space) -> Turning:
        """Which pairs of rotary channels go together."""
        found = turning([source.model for source in self.sources], self.model, space.pairs)
        # Shapes with smaller heads are offered only where frequencies are alike.
        assert found is not None
        return found

    def _expert_units(self, space: Space) -> Sequence[dict[str, Map]]:
        """Every expert chooses units of the experts matched to it, on the weights: few tokens reach each."""
        features = WeightFeatures(self.sources, self.maps, self.anatomy)
        problem = UnitProblem(
            name=space.name,
            statistics=features.expert(space.name, [torch.arange(space.copies)] * len(self.sources), 0),
            sizes=[source.space(space.name).size for source in self.sources],
            weights=[source.weight for source in self.sources],
            units=space.size,
        )
        return expert_maps(space, problem, self.options.inner, features, self.maps)

    @torch.no_grad()
    def transport(self, names: Sequence[str]) -> None:
        """Set parameters to the sum of all teachers' transported ones."""
        norms = {norm.module: norm for norm in self.anatomy.norms if norm.space in self.residual}
        scales = {scale.parameter for scale in self.anatomy.scales}
        for name in names:
            module, _, attribute = name.rpartition(".")
            norm = norms.get(module)
            if name in scales:
                self.parameters[name].fill_(1.0)
                continue
            if norm is not None and attribute == "weight" and self.anatomy.rotatable(norm.space or ""):
                # Behind rotated coordinates a norm has one scale for all: its own was folded, or is fitted later.
                self.parameters[name].fill_(self.residual[norm.space or ""].norm_scale + norm.unit_scale - 1)
                continue
            # Push carries α already; what is written to fixed coordinates is averaged here.
            carried = any(
                axis.side is Side.WRITE and part.key is not None and not self._is_experts(part.key)
                for axis in self.anatomy.axes[name]
                for part in axis.parts
            )
            self.parameters[name].copy_(self._total(name, carried))

    def _total(self, name: str, carried: bool) -> Tensor:
        """The sum of all teachers' transported parameters of one name, float64; each is let go of once it is added."""
        total: Tensor | None = None
        for source, maps in zip(self.sources, self.maps, strict=True):
            moved = (1.0 if carried else source.weight) * source.transported(maps, name, self.anatomy)
            total = moved if total is None else total.add_(moved)
        assert total is not None
        return total

    def _is_experts(self, key: str) -> bool:
        space = self.anatomy.spaces.get(key)
        return space is not None and space.kind is Kind.EXPERTS

    @torch.no_grad()
    def rescale(self, names: Sequence[str], gain: float) -> None:
        """Multiply embeddings by what their family multiplies them by less at the student's width (Gemma's √width)."""
        for name in names:
            self.parameters[name].mul_(gain)
