"""Solvers of the transport problem: minimise <P, C> over the plans P [n, m] with row sums μ and column sums ν.

    emd                    exact: between equal sizes and uniform marginals a permutation.
    sinkhorn               soft: minimises <P, C> - ε H(P).
    semirelaxed            ν is free: each source goes to its nearest target (clustering).
    semirelaxed-entropic   ν is free, and soft: each source is a softmax over targets.

ε is given relative to a scale, the median cost, so that one value suits all spaces.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import ot
import torch
from torch import Tensor

from compressor.errors import CouplingError
from compressor.transport.coupling import TIGHT, Coupling
from compressor.transport.marginals import check_marginal, uniform
from compressor.transport.registry import Registry


@dataclass(frozen=True)
class Problem:
    """A transport problem: cost [n, m], marginals mu [n] and nu [m], absolute epsilon, and the iterations allowed."""

    cost: Tensor
    mu: Tensor
    nu: Tensor
    epsilon: float
    max_iterations: int | None
    space: str


#: A solver returns the plan [n, m] and the target marginal [m] that it answers for.
Solver = Callable[[Problem], tuple[Tensor, Tensor]]

SOLVERS: Registry[Solver] = Registry("transport solver")

EMD_ITERATIONS = 2_000_000
SINKHORN_ITERATIONS = 2_000
#: Sinkhorn comes down to a small ε in steps of this factor, each started from the potentials of the one before.
ANNEALING = 4.0
ANNEALING_ITERATIONS = 50


def solve(
    name: str,
    cost: Tensor,
    mu: Tensor | None = None,
    nu: Tensor | None = None,
    *,
    epsilon: float = 0.05,
    scale: float | None = None,
    max_iterations: int | None = None,
    space: str = "space",
) -> Coupling:
    """Transport with the solver of that name.

    Args:
        name: one of `SOLVERS.names()`.
        cost: ground cost [n, m].
        mu: source marginal [n]; uniform if omitted.
        nu: target marginal [m]; uniform if omitted, and not read by the semi-relaxed solvers.
        epsilon: entropic regularisation in units of `scale`; not read by the hard solvers.
        scale: the unit of epsilon; the median cost if omitted.
        max_iterations: iterations allowed; a generous limit of the solver's own if omitted.
        space: the name that errors and the report use.

    Raises:
        UserError: no solver has that name.
        CouplingError: the costs or marginals are invalid, or the solver did not converge.
    """
    run = SOLVERS.get(name)
    cost = cost.double()
    if cost.ndim != 2 or cost.numel() == 0 or not bool(torch.isfinite(cost).all()):
        raise CouplingError(f"{space}: the ground cost must be a finite matrix, not one of shape {tuple(cost.shape)}")
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise CouplingError(f"{space}: epsilon must be finite and above 0, not {epsilon}")
    n, m = cost.shape
    mu = uniform(n) if mu is None else check_marginal(mu, n, name="mu", space=space)
    nu = uniform(m) if nu is None else check_marginal(nu, m, name="nu", space=space)
    scale = cost_scale(cost) if scale is None else scale
    plan, nu = run(Problem(cost, mu, nu, epsilon * scale, max_iterations, space))
    return Coupling(plan, mu, nu, float((plan * cost).sum()), name, space)


def cost_scale(cost: Tensor) -> float:
    """The unit of ε: the median cost, or the mean where most costs are zero, or 1 where all are."""
    return float(cost.median()) or float(cost.mean()) or 1.0


@SOLVERS.register("emd")
def emd(problem: Problem) -> tuple[Tensor, Tensor]:
    """The exact plan by network simplex; tried once more with ten times the iterations before it is given up."""
    # POT's simplex has an absolute tolerance: costs below 1e-13 all look the same to it, and it would not say so.
    cost = problem.cost / (float(problem.cost.abs().max()) or 1.0)
    limit = problem.max_iterations or EMD_ITERATIONS
    for allowed in (limit, 10 * limit):
        with warnings.catch_warnings():
            # What POT warns of is in its log too, where it cannot be missed.
            warnings.simplefilter("ignore")
            plan, log = ot.emd(
                problem.mu.numpy(), problem.nu.numpy(), cost.numpy(), numItermax=allowed, center_dual=False, log=True
            )
        if log["warning"] is None:
            return torch.from_numpy(plan), problem.nu
    raise CouplingError(f"{problem.space}: emd did not converge in {10 * limit} iterations ({log['warning']})")


@SOLVERS.register("sinkhorn")
def sinkhorn(problem: Problem) -> tuple[Tensor, Tensor]:
    """The entropic plan by Sinkhorn iterations in the log domain, annealed from the largest cost down to ε."""
    cost, epsilon = problem.cost, problem.epsilon
    limit = problem.max_iterations or SINKHORN_ITERATIONS
    stages = max(0, math.ceil(math.log(max(float(cost.max()) / epsilon, 1.0), ANNEALING)))
    potentials: tuple[Tensor, Tensor] | None = None
    for stage in range(stages, -1, -1):
        plan, log = ot.bregman.sinkhorn_log(
            problem.mu,
            problem.nu,
            cost,
            epsilon * ANNEALING**stage,
            numItermax=min(limit, ANNEALING_ITERATIONS) if stage else limit,
            stopThr=0.1 * TIGHT * float(problem.nu.min()),
            log=True,
            warn=False,  # An early stop shows as a marginal error, which every coupling is checked for.
            warmstart=potentials,
        )
        # POT's potentials are in units of ε, which the next stage divides.
        potentials = ANNEALING * log["log_u"], ANNEALING * log["log_v"]
    return plan, problem.nu


@SOLVERS.register("semirelaxed")
def semirelaxed(problem: Problem) -> tuple[Tensor, Tensor]:
    """The exact plan when ν is free: all of a source's mass goes to its nearest target, the first of equals."""
    plan = torch.zeros_like(problem.cost)
    plan.scatter_(1, problem.cost.argmin(1, keepdim=True), problem.mu[:, None])
    return plan, plan.sum(0)


@SOLVERS.register("semirelaxed-entropic")
def semirelaxed_entropic(problem: Problem) -> tuple[Tensor, Tensor]:
    """The entropic plan when ν is free, in closed form: P_ij = μ_i softmax_j(-C_ij / ε)."""
    plan = problem.mu[:, None] * torch.softmax(-problem.cost / problem.epsilon, 1)
    return plan, plan.sum(0)
