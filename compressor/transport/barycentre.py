"""Free-support Wasserstein barycentres.

Minimise  Σ_k α_k <P_k, C_k>,  C_k[i, j] = ||x_i - z_j||²,  over couplings P_k and support z = Cᵀx in turn.
The joint Gram matrix G [N, N] suffices: ||x_i - z_j||² = G_ii - 2 (GC)_ij + (CᵀGC)_jj.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from compressor.errors import CouplingError, UserError
from compressor.transport.costs import squared
from compressor.transport.coupling import Coupling
from compressor.transport.marginals import check_marginal, uniform
from compressor.transport.solvers import LEAVING, SOLVERS, median_cost, solve

#: {solver with fixed target marginals: the same with free ones}.
FREE = {"emd": "semirelaxed", "sinkhorn": "semirelaxed-entropic"}
ENTROPIC = ("sinkhorn", "semirelaxed-entropic")
#: Squared distance of duplicates, as a share of the largest squared norm.
DUPLICATE = 1e-12


@dataclass(frozen=True, eq=False)
class Barycentre:
    """A common support, and couplings to it.

    Attributes:
        weights: C [N, m]; non-negative, columns sum to one.
        objective: before each move; entropic: with -ε H(P).
    """

    couplings: tuple[Coupling, ...]
    weights: Tensor
    objective: tuple[float, ...]


def barycentre(
    gram: Tensor,
    sizes: Sequence[int],
    m: int,
    *,
    alphas: Sequence[float] | None = None,
    marginals: Sequence[Tensor] | None = None,
    nu: Tensor | None = None,
    solver: str = "emd",
    free_targets: bool = False,
    epsilon: float = 0.05,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
    space: str = "space",
) -> Barycentre:
    """The barycentre of several teachers' coordinates.

    Args:
        gram: joint inner products [N, N].
        sizes: coordinates per teacher.
        m: support points.
        alphas: teacher weights.
        marginals, nu: default uniform.
        free_targets: use the solver's semi-relaxed form.
        epsilon: in units of the first median cost.
        tolerance: relative decrease that ends it.

    Raises:
        UserError: the solver is unknown or leaves mass behind.
        CouplingError: arguments do not fit.
    """
    gram = gram.double()
    _check_problem(gram, sizes, m, solver, space)
    alpha = _teacher_weights(alphas, len(sizes), space)
    marginals, mass = _source_marginals(marginals, sizes, alpha, space)
    name = FREE.get(solver, solver) if free_targets else solver
    weights = farthest_first(gram, mass, m)
    cost = _costs(gram, weights)
    scale = median_cost(cost)
    objective: list[float] = []
    while True:
        blocks = cost.split(list(sizes))
        with warnings.catch_warnings(record=True) as inexact:
            warnings.simplefilter("always")
            couplings = tuple(
                solve(name, block, mu, nu, epsilon=epsilon, scale=scale, space=space)
                for block, mu in zip(blocks, marginals, strict=True)
            )
        objective.append(_objective(couplings, blocks, alpha, epsilon * scale if name in ENTROPIC else 0.0))
        weights = _means(couplings, alpha, mass, cost)
        if _has_converged(objective, tolerance) or len(objective) > max_iterations:
            for warning in inexact:  # of the returned couplings only
                warnings.warn(warning.message, stacklevel=2)
            return Barycentre(couplings, weights, tuple(objective))
        cost = _costs(gram, weights)


def _check_problem(gram: Tensor, sizes: Sequence[int], m: int, solver: str, space: str) -> None:
    SOLVERS.get(solver)
    if solver in LEAVING:
        # Mass left behind would change the objective with every move.
        raise UserError(
            f"the barycentre takes emd or sinkhorn, not {solver}: {' and '.join(LEAVING)} transport need an anchor"
        )
    if gram.shape != (sum(sizes), sum(sizes)) or m < 1 or min(sizes, default=0) < 1:
        raise CouplingError(
            f"{space}: no barycentre of {m} points from a Gram matrix of shape {tuple(gram.shape)} "
            f"and teachers of sizes {list(sizes)}"
        )


def _source_marginals(
    marginals: Sequence[Tensor] | None, sizes: Sequence[int], alpha: Sequence[float], space: str
) -> tuple[Sequence[Tensor], Tensor]:
    """Source marginals, and their stack weighted by teacher."""
    if marginals is None:
        marginals = [uniform(size) for size in sizes]
    elif len(marginals) != len(sizes):
        raise CouplingError(f"{space}: {len(marginals)} marginals for {len(sizes)} teachers")
    weighted = [
        a * check_marginal(mu, size, name="mu", space=space)
        for a, mu, size in zip(alpha, marginals, sizes, strict=True)
    ]
    return marginals, torch.cat(weighted)


def _objective(
    couplings: Sequence[Coupling], blocks: Sequence[Tensor], alpha: Sequence[float], entropic: float
) -> float:
    """Σ_k α_k (<P_k, C_k> - ε H(P_k))."""
    return sum(
        a * (float((coupling.plan * block).sum()) - entropic * coupling.entropy)
        for a, coupling, block in zip(alpha, couplings, blocks, strict=True)
    )


def _has_converged(objective: Sequence[float], tolerance: float) -> bool:
    fall = objective[-2] - objective[-1] if len(objective) > 1 else float("inf")
    return fall <= tolerance * abs(objective[-1])


def farthest_first(gram: Tensor, mass: Tensor, m: int) -> Tensor:
    """One-hot first support [N, m], by farthest-first traversal.

    Mass [N] weighs distances; duplicates wait until all are reached.
    """
    norms = gram.diagonal()
    reached, live = DUPLICATE * float(norms.max()), mass > 0
    heaviest = float(mass.max())
    distance = norms
    chosen: list[int] = []
    for _ in range(m):
        badness = _badness(mass, distance)
        i = int(badness.argmax())
        # All can only be reached if the worst is close to zero.
        if float(badness[i]) <= heaviest * reached and float(distance[live].max()) <= reached:
            distance = norms
            i = int(_badness(mass, distance).argmax())
        to_i = (norms + norms[i] - 2 * gram[i]).clamp_min(0)
        distance = to_i if distance is norms else torch.minimum(distance, to_i)
        chosen.append(i)
    return torch.nn.functional.one_hot(torch.tensor(chosen), len(gram)).T.double()


def _badness(mass: Tensor, distance: Tensor) -> Tensor:
    """Mass times distance; -1 without mass."""
    return torch.where(mass > 0, mass * distance, -1.0)


def _costs(gram: Tensor, weights: Tensor) -> Tensor:
    """Squared distances [N, m] to the support."""
    inner = _inner_products(gram, weights)
    return squared(gram.diagonal(), (weights * inner).sum(0), inner)


def _inner_products(gram: Tensor, weights: Tensor) -> Tensor:
    """G C [N, m]; O(N²) for hard couplings."""
    shares, owners = weights.max(1)
    if int(weights.count_nonzero()) > int(shares.count_nonzero()):
        return gram @ weights
    # Sum rows of the symmetric matrix: they are contiguous.
    entries = (shares.numpy(), (owners.numpy(), np.arange(len(owners))))
    sums = csr_array(entries, shape=tuple(weights.T.shape)) @ gram.numpy()
    return torch.from_numpy(sums).T.contiguous()


def _means(couplings: Sequence[Coupling], alpha: Sequence[float], mass: Tensor, cost: Tensor) -> Tensor:
    """The best support: stacked α_k P_k, normalised.

    Points without mass move to the worst coordinate.
    """
    plans = torch.cat([a * coupling.plan for a, coupling in zip(alpha, couplings, strict=True)])
    received = plans.sum(0)
    empty = (received <= 0).nonzero().flatten()
    worst = _badness(mass, cost.amin(1)).argsort(descending=True, stable=True)
    for j, i in zip(empty.tolist(), worst.tolist(), strict=False):
        plans[:, j] = 0.0
        plans[i, j] = received[j] = 1.0
    return plans / received


def _teacher_weights(alphas: Sequence[float] | None, teachers: int, space: str) -> list[float]:
    alpha = torch.ones(teachers, dtype=torch.float64) if alphas is None else torch.tensor(alphas, dtype=torch.float64)
    if alpha.shape != (teachers,) or not bool((alpha >= 0).all()) or not 0 < float(alpha.sum()) < float("inf"):
        raise CouplingError(f"{space}: teacher weights must be {teachers} non-negative numbers, not all zero")
    return (alpha / alpha.sum()).tolist()
