"""Free-support Wasserstein barycentres: the anchor that nobody trained.

Given the coordinates x_i of K teachers, find m points z_j that all teachers can be transported to most cheaply:

    minimise  Σ_k α_k <P_k, C_k>,   C_k[i, j] = ||x_i - z_j||²

over the couplings P_k and the support z by turns.  For fixed support each P_k is a transport problem; for fixed
couplings each z_j is a mean of the coordinates that are coupled to it.  So z = Cᵀx with C [N, m], N the coordinates of
all teachers, and every distance follows from their joint Gram matrix G [N, N]; the features are never needed:

    ||x_i - z_j||² = G_ii - 2 (GC)_ij + (CᵀGC)_jj.

With free target marginals this is weighted k-means (hard) or its soft form (entropic).
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

#: The solver that frees the target marginals, for each that holds them; the entropic ones.
FREE = {"emd": "semirelaxed", "sinkhorn": "semirelaxed-entropic"}
ENTROPIC = ("sinkhorn", "semirelaxed-entropic")
#: Squared distances below this share of the largest squared norm are rounding: the coordinates are duplicates.
DUPLICATE = 1e-12


@dataclass(frozen=True, eq=False)
class Barycentre:
    """A synthesised anchor.

    Attributes:
        couplings: one per teacher, from its coordinates to the m support points.
        weights: C [N, m]; column j makes support point j of all teachers' coordinates: non-negative, sums to one.
        objective: what was minimised, before each move of the support; for entropic solvers with its -ε H(P).
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
        gram: inner products of all teachers' coordinates, teacher after teacher, [N, N].
        sizes: how many coordinates each teacher has; they sum to N.
        m: support points.
        alphas: weight of each teacher, normalised; equal if omitted.  At 0 a teacher is coupled but moves nothing.
        marginals: source marginal of each teacher; uniform if omitted.
        nu: target marginal [m] that all couplings share; uniform if omitted.
        solver: emd, sinkhorn, or one of their semi-relaxed forms.
        free_targets: replace emd and sinkhorn by their semi-relaxed forms.
        epsilon: entropic regularisation relative to the median cost to the first support.
        max_iterations: moves of the support allowed.
        tolerance: stop when a move lowers the objective by less than this share of it.
        space: the name that errors and the report use.

    Raises:
        UserError: no solver has that name, or it leaves mass behind.
        CouplingError: sizes, weights or marginals do not fit, or a coupling failed.
    """
    SOLVERS.get(solver)
    if solver in LEAVING:
        # What stays behind would change with every move of the support, and the objective with it.
        raise UserError(
            f"the barycentre takes emd or sinkhorn, not {solver}: {' and '.join(LEAVING)} transport need an anchor"
        )
    gram = gram.double()
    if gram.shape != (sum(sizes), sum(sizes)) or m < 1 or min(sizes, default=0) < 1:
        raise CouplingError(
            f"{space}: no barycentre of {m} points from a Gram matrix of shape {tuple(gram.shape)} "
            f"and teachers of sizes {list(sizes)}"
        )
    alpha = _teacher_weights(alphas, len(sizes), space)
    if marginals is None:
        marginals = [uniform(size) for size in sizes]
    elif len(marginals) != len(sizes):
        raise CouplingError(f"{space}: {len(marginals)} marginals for {len(sizes)} teachers")
    name = FREE.get(solver, solver) if free_targets else solver
    mass = torch.cat(
        [
            a * check_marginal(mu, size, name="mu", space=space)
            for a, mu, size in zip(alpha, marginals, sizes, strict=True)
        ]
    )

    weights = farthest_first(gram, mass, m)
    cost = _costs(gram, weights)
    scale = median_cost(cost)
    entropic = epsilon * scale if name in ENTROPIC else 0.0
    objective: list[float] = []
    while True:
        blocks = cost.split(list(sizes))
        with warnings.catch_warnings(record=True) as inexact:
            warnings.simplefilter("always")
            couplings = tuple(
                solve(name, block, mu, nu, epsilon=epsilon, scale=scale, space=space)
                for block, mu in zip(blocks, marginals, strict=True)
            )
        objective.append(
            sum(
                a * (float((coupling.plan * block).sum()) - entropic * coupling.entropy)
                for a, coupling, block in zip(alpha, couplings, blocks, strict=True)
            )
        )
        weights = _means(couplings, alpha, mass, cost)
        fall = objective[-2] - objective[-1] if len(objective) > 1 else float("inf")
        if fall <= tolerance * abs(objective[-1]) or len(objective) > max_iterations:
            # Only the couplings that are handed out are worth a warning.
            for warning in inexact:
                warnings.warn(warning.message, stacklevel=2)
            return Barycentre(couplings, weights, tuple(objective))
        cost = _costs(gram, weights)


def farthest_first(gram: Tensor, mass: Tensor, m: int) -> Tensor:
    """A first support of m actual coordinates, one-hot [N, m].

    The first is the one with the largest norm, each next one the farthest from all before, both weighted by mass [N].
    Coordinates that are duplicates of each other are thus taken once, and the first of equals wins.  When every
    coordinate has been reached the traversal starts again, so that a support wider than the teachers is even.
    """
    norms = gram.diagonal()
    reached, live = DUPLICATE * float(norms.max()), mass > 0
    heaviest = float(mass.max())
    distance = norms
    chosen: list[int] = []
    for _ in range(m):
        badness = _badness(mass, distance)
        i = int(badness.argmax())
        # Only where the worst is next to nothing can all have been reached.
        if float(badness[i]) <= heaviest * reached and float(distance[live].max()) <= reached:
            distance = norms
            i = int(_badness(mass, distance).argmax())
        to_i = (norms + norms[i] - 2 * gram[i]).clamp_min(0)
        distance = to_i if distance is norms else torch.minimum(distance, to_i)
        chosen.append(i)
    return torch.nn.functional.one_hot(torch.tensor(chosen), len(gram)).T.double()


def _badness(mass: Tensor, distance: Tensor) -> Tensor:
    """How badly each coordinate is served, [N]; those without mass are below all others."""
    return torch.where(mass > 0, mass * distance, -1.0)


def _costs(gram: Tensor, weights: Tensor) -> Tensor:
    """Squared distances [N, m] of all coordinates to the support C = weights."""
    inner = _inner_products(gram, weights)
    return squared(gram.diagonal(), (weights * inner).sum(0), inner)


def _inner_products(gram: Tensor, weights: Tensor) -> Tensor:
    """G C [N, m].  Where every coordinate belongs to one support point at most (hard couplings) sums do: O(N²)."""
    shares, owners = weights.max(1)
    if int(weights.count_nonzero()) > int(shares.count_nonzero()):
        return gram @ weights
    # By rows, which lie together in memory: the Gram matrix is symmetric.
    belongs = (shares.numpy(), (owners.numpy(), np.arange(len(owners))))
    sums = csr_array(belongs, shape=tuple(weights.T.shape)) @ gram.numpy()
    return torch.from_numpy(sums).T.contiguous()


def _means(couplings: Sequence[Coupling], alpha: Sequence[float], mass: Tensor, cost: Tensor) -> Tensor:
    """The best support for fixed couplings: C = stacked α_k P_k, columns normalised.

    If all couplings share ν this is Σ_k α_k push_k.  A support point that nothing is coupled to (ν is free) moves to
    the coordinate that is served worst, where it can only help.
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
