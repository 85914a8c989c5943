"""The maps `transport-select`: what teachers have in common becomes one, the rest competes for what is left.

Partial transport pairs coordinates of different teachers (`compressor.transport.paired`).  A pair stands in for both,
and is chosen, like a coordinate that is alone, by what it explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compressor.fusion.features.base import SpaceStatistics
from compressor.fusion.maps.residual import (
    RESIDUAL_MAPS,
    ResidualMap,
    ResidualProblem,
    gram_for,
    pooled_maps,
    with_norm_scale,
)
from compressor.fusion.maps.units import UNIT_MAPS, UnitMap, UnitProblem, pursue
from compressor.transport import Coupling, paired

#: Distance of two coordinates, as a share of that of uncorrelated ones, from which they are not one.
PAIR_PRICE = 0.1
#: The name of both maps, and the solver of their couplings.
NAME = "transport-select"


@UNIT_MAPS.register(NAME)
def pair_units(problem: UnitProblem) -> UnitMap:
    """Pair units of different teachers by partial transport, and choose among pairs and single units by pursuit."""
    units = [size // problem.block for size in problem.sizes]
    groups = _groups(gram_for(problem.coupling.cost, problem.unit_gram()), units, problem.units)
    if problem.block == 1:
        alphas = torch.cat([torch.full((n,), a) for n, a in zip(units, problem.weights, strict=True)])
        statistics = _merged(problem.statistics, groups, alphas)
    else:
        # The heaviest of a pair speaks for it: the channels of heads are matched only later.
        heads = _heaviest(groups, problem.importance())
        rows = (heads[:, None] * problem.block + torch.arange(problem.block)).flatten()
        statistics = problem.statistics.of(rows)
    count = int(groups.max()) + 1
    shown = replace(problem, statistics=statistics, sizes=[count * problem.block], weights=[1.0])
    chosen = torch.arange(count) if count <= problem.units else pursue(shown).sort().values
    couplings = _couplings(groups, chosen, units, problem.units, problem.name)
    return UnitMap(pooled_maps(couplings, problem.weights), couplings)


@RESIDUAL_MAPS.register(NAME)
def pair_coordinates(problem: ResidualProblem) -> ResidualMap:
    """Pair coordinates of different teachers by partial transport, and choose those that explain most of all."""
    n, sizes = sum(problem.sizes), list(problem.sizes)
    gram = problem.gram[:n, :n]
    share = torch.cat([torch.full((size,), a) for size, a in zip(sizes, problem.weights, strict=True)]).double()
    groups = _groups(gram_for(problem.coupling.cost, gram), sizes, problem.m)
    energy = share * gram.diagonal()
    heads = _heaviest(groups, energy)
    cross = gram[heads] * share.sqrt()
    statistics = SpaceStatistics(
        cross, lambda: energy[heads], lambda: gram[heads[:, None], heads[None, :]], lambda: cross
    )
    shown = UnitProblem("residual", statistics, [len(heads)], [1.0], problem.m)
    chosen = torch.arange(len(heads)) if len(heads) <= problem.m else pursue(shown).sort().values
    couplings = _couplings(groups, chosen, sizes, problem.m, "residual")
    return with_norm_scale(problem, pooled_maps(couplings, problem.weights), couplings)


def _groups(gram: Tensor, sizes: Sequence[int], targets: int) -> Tensor:
    """Groups of coordinates, [N]; each alone where pairs would leave room unused."""
    groups = paired(gram, sizes, PAIR_PRICE)
    return groups if int(groups.max()) + 1 >= targets else torch.arange(len(gram))


def _merged(statistics: SpaceStatistics, groups: Tensor, alphas: Tensor) -> SpaceStatistics:
    """Moments of the groups' weighted means."""
    means = torch.zeros(int(groups.max()) + 1, len(groups), dtype=torch.float64)
    means[groups, torch.arange(len(groups))] = alphas.double()
    means /= means.sum(1, keepdim=True)
    gram = means @ statistics.gram @ means.T
    outgoing = torch.zeros(len(means), statistics.outgoing.shape[1], dtype=statistics.outgoing.dtype)
    outgoing.index_add_(0, groups, statistics.outgoing)
    return SpaceStatistics(outgoing, gram.diagonal, lambda: gram, lambda: means @ statistics.cross)


def _heaviest(groups: Tensor, weights: Tensor) -> Tensor:
    """The heaviest member of each group, [groups]."""
    order = weights.argsort(stable=True)
    # Of several values for one place the last, heaviest, stays.
    heaviest = torch.empty(int(groups.max()) + 1, dtype=torch.int64)
    for index in order.tolist():
        heaviest[groups[index]] = index
    return heaviest


def _couplings(groups: Tensor, chosen: Tensor, sizes: Sequence[int], targets: int, space: str) -> tuple[Coupling, ...]:
    """Every member of the j-th chosen group goes to the student's coordinate j."""
    places = torch.full((int(groups.max()) + 1,), -1)
    places[chosen] = torch.arange(len(chosen))
    couplings = []
    for own in places[groups].split(list(sizes)):
        plan = torch.zeros(len(own), targets, dtype=torch.float64)
        taken = (own >= 0).nonzero()[:, 0]
        plan[taken, own[taken]] = 1 / targets
        couplings.append(Coupling(plan, plan.sum(1), plan.sum(0), None, NAME, space))
    return tuple(couplings)
