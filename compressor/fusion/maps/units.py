"""Maps of hidden units: which units, or means of them, the student gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from compressor.anatomy import Map
from compressor.fusion.features.base import SpaceStatistics
from compressor.fusion.maps.pursuit import pursue_blocks, pursue_units
from compressor.fusion.maps.residual import gram_for, pooled_maps
from compressor.transport import Coupling, CouplingOptions, Registry, barycentre, from_importance, from_selection

#: Share of gain below which the barycentre of units stops.
SELECTION_TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False)
class UnitProblem:
    """Input of a map of units, all teachers pooled.

    Attributes:
        sizes, weights: coordinates and α per teacher.
        block: coordinates per unit (one, or a head's).
        likeness: computes blocks' inner products.
    """

    name: str
    statistics: SpaceStatistics
    sizes: Sequence[int]
    weights: Sequence[float]
    units: int
    block: int = 1
    coupling: CouplingOptions = field(default_factory=CouplingOptions)
    likeness: Callable[[], Tensor] | None = None

    def importance(self) -> Tensor:
        """Mean square contribution to the residual stream, [N / block]."""
        contributions = self.statistics.variance * self.statistics.outgoing.square().sum(1)
        return contributions.reshape(-1, self.block).sum(1)

    def unit_gram(self) -> Tensor:
        """Inner products of units, [N / block, N / block]."""
        return self.statistics.gram if self.likeness is None else self.likeness()


@dataclass(frozen=True, eq=False)
class UnitMap:
    """Push and pull [units_k, units] and coupling per teacher."""

    maps: tuple[Map, ...]
    couplings: tuple[Coupling, ...]


UNIT_MAPS: Registry[Callable[[UnitProblem], UnitMap]] = Registry("inner map")


@UNIT_MAPS.register("select")
def select_units(problem: UnitProblem) -> UnitMap:
    """Choose the units that reduce the refit error most: partial transport, by greedy pursuit."""
    return chosen_units(problem, pursue(problem))


@UNIT_MAPS.register("transport")
def transport_units(problem: UnitProblem) -> UnitMap:
    """Couple all teachers' units to their barycentre, with contributions as masses."""
    units = [size // problem.block for size in problem.sizes]
    importance = problem.importance().clamp(min=1e-12).split(units)
    marginals = [from_importance(part, space=problem.name) for part in importance]
    options = problem.coupling
    centre = barycentre(
        gram_for(options.cost, problem.unit_gram()), units, problem.units, alphas=problem.weights, marginals=marginals,
        solver=options.solver, epsilon=options.epsilon, free_targets=True, tolerance=SELECTION_TOLERANCE,
        space=problem.name,
    )  # fmt: skip
    return UnitMap(pooled_maps(centre.couplings, problem.weights), centre.couplings)


@UNIT_MAPS.register("importance")
def most_important_units(problem: UnitProblem) -> UnitMap:
    """Keep the units that contribute most, of any teacher."""
    return chosen_units(problem, problem.importance().argsort(descending=True)[: problem.units].sort().values)


@UNIT_MAPS.register("slice")
def evenly_spaced_units(problem: UnitProblem) -> UnitMap:
    """Keep evenly spaced units of every teacher, as a baseline."""
    units = [size // problem.block for size in problem.sizes]
    couplings = tuple(
        from_selection(torch.linspace(0, n - 1, problem.units).round().long(), n, space=problem.name) for n in units
    )
    return UnitMap(pooled_maps(couplings, problem.weights, scatter=True), couplings)


def restricted_to(method: Callable[[UnitProblem], UnitMap], problem: UnitProblem, owners: Sequence[bool]) -> UnitMap:
    """A method's map of the owners' units; of all if too few."""
    units = [size // problem.block for size in problem.sizes]
    allowed = torch.cat([torch.full((count,), owner) for count, owner in zip(units, owners, strict=True)])
    if all(owners) or int(allowed.sum()) < problem.units:
        return method(problem)
    likeness, index = problem.likeness, allowed.nonzero().flatten()
    total = sum(weight for weight, owner in zip(problem.weights, owners, strict=True) if owner)
    restricted = replace(
        problem,
        statistics=problem.statistics.of(allowed.repeat_interleave(problem.block).nonzero().flatten()),
        sizes=[size for size, owner in zip(problem.sizes, owners, strict=True) if owner],
        weights=[weight / total for weight, owner in zip(problem.weights, owners, strict=True) if owner],
        likeness=None if likeness is None else lambda: likeness()[index[:, None], index[None, :]],
    )
    solved = method(restricted)
    solved_pairs = iter(zip(solved.maps, solved.couplings, strict=True))
    pairs = [next(solved_pairs) if owner else _empty(problem, n) for n, owner in zip(units, owners, strict=True)]
    return UnitMap(tuple(mapping for mapping, _ in pairs), tuple(coupling for _, coupling in pairs))


def chosen_units(problem: UnitProblem, chosen: Tensor) -> UnitMap:
    """Student unit j is pooled unit chosen[j]."""
    units = [size // problem.block for size in problem.sizes]
    whole = from_selection(chosen, sum(units), space=problem.name)
    plans = whole.plan.split(units)
    couplings = tuple(Coupling(plan, plan.sum(1), plan.sum(0), None, "selection", problem.name) for plan in plans)
    # A chosen unit is not averaged, so its teacher's α must not shrink it.
    return UnitMap(tuple(Map(coupling.push(), coupling.pull()) for coupling in couplings), couplings)


def _empty(problem: UnitProblem, units: int) -> tuple[Map, Coupling]:
    """The map of a teacher without chosen units."""
    zeros = torch.zeros(units, problem.units, dtype=torch.float64)
    return Map(zeros, zeros), Coupling(zeros, zeros.sum(1), zeros.sum(0), None, "selection", problem.name)


def pursue(problem: UnitProblem) -> Tensor:
    """The units that reduce the refit error most, by greedy pursuit."""
    gram, cross = problem.statistics.gram, problem.statistics.cross
    if problem.block == 1:
        return pursue_units(gram, cross, problem.units)
    return pursue_blocks(gram, cross, problem.units, problem.block)
