"""Maps of hidden units: which of the teachers' units, or which means of them, become the student's.

Each method is one function from the pooled statistics of a space to one coupling per teacher, under a name in
`UNIT_MAPS`.  Units may be single coordinates (FFN) or whole groups of channels (attention heads): `block` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.anatomy import Map
from compressor.fusion.residual import pooled_maps
from compressor.transport import Coupling, Registry, barycentre, from_importance, from_selection

#: Ridge of the regressions that choose units, relative to the mean variance: only differences of error matter there.
SELECTION_RIDGE = 1e-4


@dataclass(frozen=True, eq=False)
class UnitProblem:
    """What hidden units are matched by.

    Attributes:
        name: of the space.
        gram: joint second moments of what the space's readers see, all teachers' coordinates pooled [N, N].
        cross: moments of those coordinates with the transported target of their readers [N, m_residual].
        outgoing: transported outgoing weights [N, m_residual].
        sizes: coordinates of each teacher.
        weights: α per teacher.
        block: coordinates per unit: 1, or the channels of a head (group).
        units: units of the student.
        solver, epsilon: how couplings are solved.
        likeness: inner products between blocks, where they are not `contributions()` (grouped query heads).
    """

    name: str
    gram: Tensor
    cross: Tensor
    outgoing: Tensor
    sizes: Sequence[int]
    weights: Sequence[float]
    block: int
    units: int
    solver: str = "emd"
    epsilon: float = 0.05
    likeness: Tensor | None = None

    def importance(self) -> Tensor:
        """Mean square of what each unit adds to the residual stream, [N / block]."""
        if self.block == 1:
            return self.gram.diagonal() * self.outgoing.square().sum(1)
        return self.contributions().diagonal()

    def contributions(self) -> Tensor:
        """Inner products between what units add to the residual stream, [N / block, N / block].

        Unit i adds a_i(t)·w_i; the mean over tokens of the products is (aᵀa) ∘ (wwᵀ), summed over a unit's channels.
        """
        if self.likeness is not None:
            return self.likeness
        products = self.gram * (self.outgoing @ self.outgoing.T)
        count = products.shape[0] // self.block
        return products.reshape(count, self.block, count, self.block).sum(dim=(1, 3))


@dataclass(frozen=True, eq=False)
class UnitMap:
    """Per teacher, how its units reach the student's: push and pull [units_k, units], and the couplings behind them."""

    maps: tuple[Map, ...]
    couplings: tuple[Coupling, ...]


UNIT_MAPS: Registry[Callable[[UnitProblem], UnitMap]] = Registry("inner map")


@UNIT_MAPS.register("select")
def select(problem: UnitProblem) -> UnitMap:
    """Choose units from all teachers by how much they reduce the refit error: partial transport, the rest stays.

    Greedily forward, on Gram matrices: single units by orthogonal matching pursuit, heads as whole blocks.
    """
    chosen = _pursue(problem) if problem.block == 1 else _choose_forward(problem)
    return _chosen(problem, chosen)


@UNIT_MAPS.register("transport")
def transport(problem: UnitProblem) -> UnitMap:
    """Couple all teachers' units to their barycentre; mass follows what a unit adds to the residual stream."""
    units = [size // problem.block for size in problem.sizes]
    importance = problem.importance().clamp(min=0).split(units)
    marginals = [from_importance(part.clamp(min=1e-12), space=problem.name) for part in importance]
    found = barycentre(
        problem.gram if problem.block == 1 else problem.contributions(), units, problem.units,
        alphas=problem.weights, marginals=marginals, solver=problem.solver, epsilon=problem.epsilon,
        free_targets=True, space=problem.name,
    )  # fmt: skip
    return UnitMap(pooled_maps(found.couplings, problem.weights), found.couplings)


@UNIT_MAPS.register("importance")
def most_important(problem: UnitProblem) -> UnitMap:
    """Keep the units that add most to the residual stream, whosever they are: importance slicing, quick and rough."""
    return _chosen(problem, problem.importance().argsort(descending=True)[: problem.units].sort().values)


@UNIT_MAPS.register("slice")
def evenly_spaced(problem: UnitProblem) -> UnitMap:
    """Keep evenly spaced units of every teacher: the usual slicing, as a baseline."""
    units = [size // problem.block for size in problem.sizes]
    couplings = tuple(
        from_selection(torch.linspace(0, n - 1, problem.units).round().long(), n, space=problem.name) for n in units
    )
    return UnitMap(pooled_maps(couplings, problem.weights, scatter=True), couplings)


def _chosen(problem: UnitProblem, chosen: Tensor) -> UnitMap:
    """Student unit j is pooled unit chosen[j], from whichever teacher owns it."""
    units = [size // problem.block for size in problem.sizes]
    whole = from_selection(chosen, sum(units), space=problem.name)
    plans = whole.plan.split(units)
    couplings = tuple(Coupling(plan, plan.sum(1), plan.sum(0), None, "selection", problem.name) for plan in plans)
    # A chosen unit has no rival, so its teacher's α must not shrink it.
    return UnitMap(tuple(Map(coupling.push(), coupling.pull()) for coupling in couplings), couplings)


def _pursue(problem: UnitProblem) -> Tensor:
    """Orthogonal matching pursuit: each time the unit that explains most of what is left of the readers' target.

    What is left of the target and of every other unit is kept up to date by one column of a pivoted Cholesky
    factorisation G ≈ LLᵀ per choice, so a twin of a chosen unit is worth nothing any more; O(N m²) in all.
    """
    gram, count = problem.gram, problem.gram.shape[0]
    floor = SELECTION_RIDGE * gram.diagonal().mean()
    variance = gram.diagonal() + floor
    left = problem.cross.clone()
    factor = torch.zeros(count, problem.units, dtype=torch.float64)
    free = torch.ones(count, dtype=torch.bool)
    for step in range(problem.units):
        gain = torch.where(free, left.square().sum(1) / variance.clamp(min=floor), -1.0)
        unit = int(gain.argmax())
        column = (gram[:, unit] - factor[:, :step] @ factor[unit, :step]) / variance[unit].sqrt()
        column[unit] = variance[unit].sqrt()
        left -= torch.outer(column, left[unit] / variance[unit].sqrt())
        variance = variance - column.square()
        factor[:, step] = column
        free[unit] = False
    return (~free).nonzero().flatten()


def _choose_forward(problem: UnitProblem) -> Tensor:
    """Greedy forward choice of blocks: each time the head that explains most of what is left of the target."""
    count, block = problem.gram.shape[0] // problem.block, problem.block
    eye = SELECTION_RIDGE * problem.gram.diagonal().mean() * torch.eye(problem.gram.shape[0], dtype=torch.float64)
    gram = problem.gram + eye
    chosen: list[int] = []
    for _ in range(min(problem.units, count)):
        gains = {}
        for unit in sorted(set(range(count)) - set(chosen)):
            index = torch.cat([torch.arange(u * block, (u + 1) * block) for u in [*chosen, unit]])
            cross = problem.cross[index]
            solved = torch.cholesky_solve(cross, torch.linalg.cholesky(gram[index][:, index]))
            gains[unit] = float((cross * solved).sum())
        chosen.append(max(gains, key=lambda unit: gains[unit]))
    return torch.tensor(sorted(chosen))
