"""A student under construction."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy import Anatomy, Kind, Map, Role, Side, Space, map_key
from compressor.fusion.build.build_report import BuildReport
from compressor.fusion.build.ridge import RIDGES
from compressor.fusion.context import FusionContext, StudentCandidate
from compressor.fusion.features.base import Features
from compressor.fusion.features.weight_features import WeightFeatures
from compressor.fusion.maps.attention.head_dim import narrowable, narrowed
from compressor.fusion.maps.attention.heads import attention_maps, group_contributions, placed_groups
from compressor.fusion.maps.attention.mixed_head_dims import alike, unlike_maps
from compressor.fusion.maps.attention.rotary import RotaryPairs, match_frequencies
from compressor.fusion.maps.experts import expert_maps, match_experts
from compressor.fusion.maps.residual import ResidualMap
from compressor.fusion.maps.units import UNIT_MAPS, UnitMap, UnitProblem, restricted_to
from compressor.fusion.plan import BuildPlan
from compressor.fusion.teacher import FusionTeacher
from compressor.transport import Coupling, CouplingOptions

#: λ of a pilot's refit, and of any refit without held-out samples to choose by.
PILOT_RIDGE = 1e-3


@dataclass(frozen=True)
class BuildOptions:
    """How a student is built, given its residual map.

    Attributes:
        owners: teachers that give heads and units; empty for all.
        from_weights: ground costs ignore data.
        reconstruction_steps: per layer, after its refit.
        mixing: of the predictions that the head is fitted to (`ensemble.mix_predictions`).
        pilot_head: fit the head to them without held-out samples too.
    """

    inner: str
    coupling: CouplingOptions = field(default_factory=CouplingOptions)
    refit: bool = True
    ridges: tuple[float, ...] = RIDGES
    owners: tuple[bool, ...] = ()
    from_weights: bool = False
    reconstruction_steps: int = 0
    mixing: float = 1.0
    pilot_head: bool = False

    @classmethod
    def from_context(cls, context: FusionContext, inner: str) -> BuildOptions:
        """Options of a fusion."""
        options, ridges = context.options, RIDGES if context.has_held_out else (PILOT_RIDGE,)
        return cls(
            inner=inner,
            coupling=context.coupling,
            refit=context.refit,
            ridges=ridges if options.ridge == "auto" else (float(options.ridge),),
            from_weights=not context.from_activations,
            reconstruction_steps=options.polish if context.refit and options.polish != "auto" else 0,
            mixing=context.mixing,
        )

    def of_pilot(self, *, head: bool) -> BuildOptions:
        """The same with one λ; pilots hold nothing out."""
        ridges = self.ridges if len(self.ridges) == 1 else (PILOT_RIDGE,)
        return replace(self, ridges=ridges, pilot_head=head)


@dataclass(eq=False)
class StudentBuilder:
    """A model that gets the teachers' weights piece by piece.

    Attributes:
        residual: maps of residual and embedding spaces; towards an anchor, of all.
        solved: maps of hidden units that students with the same residual maps share.
        seconds: spent on this student alone.
    """

    model: nn.Module
    anatomy: Anatomy
    teachers: Sequence[FusionTeacher]
    residual: Mapping[str, ResidualMap]
    options: BuildOptions
    reported: bool = True
    report: BuildReport = field(default_factory=BuildReport)
    solved: dict[tuple[Any, ...], UnitMap] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.plan = BuildPlan(self.anatomy)
        self.parameters = dict(self.model.named_parameters())
        self.maps: list[dict[str, Map]] = [
            {space: residual.maps[k] for space, residual in self.residual.items()} for k in range(len(self.teachers))
        ]
        for space, residual in self.residual.items():
            self._report_maps(space, [{space: mapping} for mapping in residual.maps], residual.couplings)
        self._orders: dict[str, UnitMap] = {}
        #: Parameters that no input reaches, and that are resized along coordinates of which nothing is known.
        self.idle = [
            name for name in self.anatomy.idle if any(t.resizes_unknown(name, self.anatomy) for t in self.teachers)
        ]

    def map_spaces(self, names: Sequence[str], features: Features) -> None:
        """Make missing hidden and attention maps."""
        for name in names:
            if not {name, map_key(name, Role.QUERY)}.isdisjoint(self.residual):
                continue
            space = self.anatomy.spaces[name]
            maps: Sequence[dict[str, Map]]
            couplings: Sequence[Coupling] = ()
            if space.kind is Kind.EXPERTS:
                maps = match_experts(space, self.teachers, self.maps, self.anatomy)
            elif space.copies > 1:
                maps = self._expert_units(space)
            elif space.kind is Kind.ATTENTION:
                maps, couplings = self._attention(space, features)
            else:
                units = self._hidden_units(name, features)
                maps, couplings = tuple({name: mapping} for mapping in units.maps), units.couplings
            for teacher_maps, new_maps in zip(self.maps, maps, strict=True):
                teacher_maps |= new_maps
            self._report_maps(name, maps, couplings)

    def forget(self, names: Sequence[str]) -> None:
        """Delete a built layer's maps."""
        keys = {key for name in names for key in (name, *(map_key(name, role) for role in Role))}
        for teacher_maps in self.maps:
            for key in teacher_maps.keys() & keys:
                del teacher_maps[key]

    def forget_solved(self, names: Sequence[str]) -> None:
        """Delete maps of hidden units that were kept for other students."""
        for key in [key for key in self.solved if key[0] in names]:
            del self.solved[key]

    @torch.no_grad()
    def transport(self, names: Sequence[str]) -> None:
        """Set parameters to the sums of the teachers' transported ones."""
        norms = {norm.module: norm for norm in self.anatomy.norms if norm.space in self.residual}
        scales = {scale.parameter for scale in self.anatomy.scales}
        for name in names:
            module, _, attribute = name.rpartition(".")
            norm = norms.get(module)
            if name in scales:
                self.parameters[name].fill_(1.0)
                continue
            if name in self.idle:
                self.parameters[name].zero_()
                continue
            if norm is not None and attribute == "weight" and self.anatomy.rotatable(norm.space or ""):
                # In rotated coordinates a norm has one scale: its own was folded, or is fitted later.
                self.parameters[name].fill_(self.residual[norm.space or ""].norm_scale + norm.unit_scale - 1)
                continue
            # Pushes include α; outputs in fixed coordinates are averaged here.
            weighted = any(
                axis.side is Side.WRITE and part.key is not None and not self._is_experts(part.key)
                for axis in self.anatomy.axes[name]
                for part in axis.parts
            )
            self.parameters[name].copy_(self._total(name, weighted))

    @torch.no_grad()
    def rescale(self, names: Sequence[str], gain: float) -> None:
        """Multiply parameters by a number."""
        for name in names:
            self.parameters[name].mul_(gain)

    def _report_maps(self, space: str, maps: Sequence[Mapping[str, Map]], couplings: Sequence[Coupling]) -> None:
        if self.reported:
            self.report.add_maps(space, maps, couplings)

    def _problem(self, name: str, features: Features) -> UnitProblem:
        return UnitProblem(
            name=name,
            statistics=features.space(name),
            sizes=[teacher.space(name).size for teacher in self.teachers],
            weights=[teacher.weight for teacher in self.teachers],
            units=self.anatomy.spaces[name].size,
            coupling=self.options.coupling,
        )

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the seconds of a block."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start

    def _hidden_units(self, name: str, features: Features) -> UnitMap:
        options = self.options
        key = (name, id(self.residual), options.inner, options.owners, self.anatomy.spaces[name].size)
        if key not in self.solved:
            self.solved[key] = self._units(self._problem(name, features), options.inner)
        return self.solved[key]

    def _units(self, problem: UnitProblem, method: str) -> UnitMap:
        owners = self.options.owners or [True] * len(self.teachers)
        return restricted_to(UNIT_MAPS.get(method), problem, owners)

    def _attention(self, space: Space, features: Features) -> tuple[Sequence[dict[str, Map]], Sequence[Coupling]]:
        """Match heads, once per order, then channels."""
        teacher_spaces = [teacher.space(space.name) for teacher in self.teachers]
        heads = features.heads(space.name)
        smaller = narrowable(teacher_spaces, space)
        if not smaller and not alike(teacher_spaces, space):
            importance = self._problem(space.name, features).importance()
            return unlike_maps(teacher_spaces, space, heads, importance), ()
        # As many heads of the teachers' size come first; their channels then become fewer.
        whole = replace(space, head_dim=teacher_spaces[0].head_dim, size=space.heads * teacher_spaces[0].head_dim)
        units = self._orders.get(space.order or "")
        if units is None:
            problem = replace(
                self._problem(space.name, features),
                block=(whole.heads // whole.groups) * whole.head_dim,
                units=space.groups,
                likeness=partial(group_contributions, heads, teacher_spaces),
            )
            units = placed_groups(problem) if space.head_position_fixed else self._units(problem, self.options.inner)
            if space.order:
                self._orders[space.order] = units
        maps = attention_maps(units, teacher_spaces, whole, heads)
        if smaller:
            pairs = self._rotary_pairs(space) if space.rotary else None
            maps = narrowed(maps, teacher_spaces, space, heads, pairs, spaced=self.options.inner == "slice")
        return maps, units.couplings

    def _rotary_pairs(self, space: Space) -> RotaryPairs:
        pairs = match_frequencies([teacher.model for teacher in self.teachers], self.model, space.pairs)
        # Shapes with smaller heads are offered only where frequencies are alike.
        assert pairs is not None
        return pairs

    def _expert_units(self, space: Space) -> Sequence[dict[str, Map]]:
        """Match by weights: few tokens reach each expert."""
        features = WeightFeatures(self.teachers, self.maps, self.anatomy)
        problem = UnitProblem(
            name=space.name,
            statistics=features.expert(space.name, [torch.arange(space.copies)] * len(self.teachers), 0),
            sizes=[teacher.space(space.name).size for teacher in self.teachers],
            weights=[teacher.weight for teacher in self.teachers],
            units=space.size,
        )
        return expert_maps(space, problem, self.options.inner, features, self.maps)

    def _total(self, name: str, weighted: bool) -> Tensor:
        """Sum transported parameters; weighted: maps include α."""
        total: Tensor | None = None
        for teacher, maps in zip(self.teachers, self.maps, strict=True):
            part = (1.0 if weighted else teacher.weight) * teacher.transported(maps, name, self.anatomy)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def _is_experts(self, key: str) -> bool:
        space = self.anatomy.spaces.get(key)
        return space is not None and space.kind is Kind.EXPERTS


@dataclass(frozen=True, eq=False)
class BuiltStudent:
    """A built student and a JSON-ready report on the choice."""

    candidate: StudentCandidate
    builder: StudentBuilder
    choice: dict[str, Any]
