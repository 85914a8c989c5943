"""Solvers: minimise <P, C> over plans P [n, m] with row sums μ and column sums ν.

ε and ρ are relative to a scale, by default the median cost (the paper's code divides costs by it).
Plans have total one; semi-relaxed ones have free ν.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.errors import CouplingError
from compressor.transport.coupling import TIGHT, Coupling
from compressor.transport.marginals import check_marginal, uniform
from compressor.transport.unbalanced import unbalanced_sinkhorn
from compressor.utils.registry import Registry


@dataclass(frozen=True, eq=False)
class Problem:
    """A transport problem.

    Attributes:
        cost: [n, m].
        mu, nu: marginals [n], [m].
        epsilon, relaxation: in units of the cost.
    """

    cost: Tensor
    mu: Tensor
    nu: Tensor
    epsilon: float
    max_iterations: int | None
    space: str
    mass: float
    relaxation: float


#: problem -> the plan [n, m] and its marginals [n] and [m].
Solver = Callable[[Problem], tuple[Tensor, Tensor, Tensor]]
#: cost [n, m] -> the unit of ε and ρ.
CostScale = Callable[[Tensor], float]

SOLVERS: Registry[Solver] = Registry("transport solver")
COST_SCALES: Registry[CostScale] = Registry("cost scale")

#: {solver that may leave mass behind: the option that limits how much}.
LEAVING = {"partial": "mass", "unbalanced": "relaxation"}
#: A plan with less than this share of the mass is refused.
NOTHING = 1e-6
#: Mass below this share of the smaller marginal is rounding, in plans of the network simplex.
MASS_ROUNDING = 1e-12

EMD_ITERATIONS = 2_000_000
SINKHORN_ITERATIONS = 2_000
#: Sinkhorn divides ε by this factor from stage to stage, keeping potentials.
ANNEALING = 4.0
ANNEALING_ITERATIONS = 50
#: Below this range of C/ε, exp(-C/ε) and its scalings stay within double precision.
UNDERFLOW = 500.0


def solve(
    name: str,
    cost: Tensor,
    mu: Tensor | None = None,
    nu: Tensor | None = None,
    *,
    epsilon: float = 0.05,
    mass: float = 0.9,
    relaxation: float = 1.0,
    normalise: str = "median",
    scale: float | None = None,
    max_iterations: int | None = None,
    space: str = "space",
) -> Coupling:
    """Solve a transport problem.

    Args:
        cost: [n, m].
        mu, nu: marginals; default uniform; semi-relaxed solvers ignore nu.
        epsilon, relaxation: ε and ρ in units of `scale`.
        mass: share for partial, in (0, 1].
        normalise: default for `scale`, of `COST_SCALES`.

    Raises:
        UserError: solver or scale is unknown.
        CouplingError: invalid input or failed solver.
    """
    run = SOLVERS.get(name)
    cost = cost.double()
    largest = _largest(cost, space)
    check_options(epsilon, mass, relaxation)
    n, m = cost.shape
    mu = uniform(n) if mu is None else check_marginal(mu, n, name="mu", space=space)
    nu = uniform(m) if nu is None else check_marginal(nu, m, name="nu", space=space)
    scale = COST_SCALES.get(normalise)(cost) if scale is None else scale
    _check_scaled({"epsilon": epsilon, "relaxation": relaxation}, scale, largest, space)
    plan, mu, nu = run(Problem(cost, mu, nu, epsilon * scale, max_iterations, space, mass, relaxation * scale))
    transported = _transported(plan, name, space) if name in LEAVING else 1.0
    if name in LEAVING:
        plan, mu, nu = plan / transported, mu / mu.sum(), nu / nu.sum()
    return Coupling(plan, mu, nu, float((plan * cost).sum()), name, space, transported)


def _largest(cost: Tensor, space: str) -> float:
    """Largest absolute cost; CouplingError unless finite."""
    # NaN is both the minimum and the maximum.
    largest = max(map(abs, map(float, cost.aminmax()))) if cost.numel() else math.nan
    if cost.ndim != 2 or not math.isfinite(largest):
        raise CouplingError(f"{space}: the ground cost must be a finite matrix, not one of shape {tuple(cost.shape)}")
    return largest


def _check_scaled(options: Mapping[str, float], scale: float, largest: float, space: str) -> None:
    for option, value in options.items():
        if not (0 < value * scale < math.inf and math.isfinite(largest / (value * scale))):
            raise CouplingError(
                f"{space}: {option} {value} is beyond floating point for costs on the scale {scale:.1e}"
            )


def _transported(plan: Tensor, name: str, space: str) -> float:
    """Total mass; CouplingError if almost zero."""
    transported = float(plan.sum())
    if not transported >= NOTHING:
        raise CouplingError(
            f"{space}: {name} transport moves next to nothing ({transported:.1e} of the mass): raise {LEAVING[name]}"
        )
    return transported


def check_options(epsilon: float, mass: float, relaxation: float) -> None:
    """CouplingError for an option out of range."""
    for option, value in (("epsilon", epsilon), ("relaxation", relaxation)):
        if not (math.isfinite(value) and value > 0):
            raise CouplingError(f"{option} must be finite and above 0, not {value}")
    if not 0 < mass <= 1:
        raise CouplingError(f"mass must be above 0 and at most 1, not {mass}")


# Cost scales


@COST_SCALES.register("median")
def median_cost(cost: Tensor) -> float:
    """The median cost, or the mean where most costs are zero, or 1 where all are."""
    return float(cost.abs().median()) or mean_cost(cost)


@COST_SCALES.register("mean")
def mean_cost(cost: Tensor) -> float:
    """The mean cost, or 1 where all are zero."""
    return float(cost.abs().mean()) or 1.0


@COST_SCALES.register("max")
def largest_cost(cost: Tensor) -> float:
    """The largest cost, or 1 where all are zero."""
    return float(cost.abs().max()) or 1.0


@COST_SCALES.register("none")
def no_scale(cost: Tensor) -> float:
    """1: ε and ρ are in units of the cost itself."""
    return 1.0


# Solvers


@SOLVERS.register("emd")
def emd(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The exact plan by network simplex, retried with ten times the iterations."""
    # POT's simplex silently treats all costs below 1e-13 as equal.
    cost = problem.cost / (float(problem.cost.abs().max()) or 1.0)
    return _simplex(problem, "emd", problem.mu, problem.nu, cost), problem.mu, problem.nu


@SOLVERS.register("sinkhorn")
def sinkhorn(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The entropic plan by scaling exp(-C/ε), or in logarithms against underflow."""
    # Potentials absorb row and column minima: every row and column keeps a zero.
    reduced = problem.cost - problem.cost.min(1, keepdim=True).values
    reduced = reduced - reduced.min(0, keepdim=True).values
    plan = _scaling(problem, reduced) if float(reduced.max()) < UNDERFLOW * problem.epsilon else None
    if plan is None or not bool(torch.isfinite(plan).all()):
        plan = _log_domain(problem)
    return plan, problem.mu, problem.nu


def _scaling(problem: Problem, cost: Tensor) -> Tensor:
    """Sinkhorn–Knopp, much cheaper than in logarithms."""
    # Importing POT takes a second, which only solvers need.
    import ot

    return ot.bregman.sinkhorn_knopp(
        problem.mu, problem.nu, cost, problem.epsilon, numItermax=problem.max_iterations or SINKHORN_ITERATIONS,
        stopThr=0.1 * TIGHT * float(problem.nu.min()), warn=False,
    )  # fmt: skip


def _log_domain(problem: Problem) -> Tensor:
    """Sinkhorn in logarithms, annealed down to ε."""
    import ot

    potentials: tuple[Tensor, Tensor] | None = None
    for epsilon, iterations in _annealed(problem):
        plan, log = ot.bregman.sinkhorn_log(
            problem.mu,
            problem.nu,
            problem.cost,
            epsilon,
            numItermax=iterations,
            stopThr=0.1 * TIGHT * float(problem.nu.min()),
            log=True,
            warn=False,  # The coupling checks its marginal errors, which an early stop leaves.
            warmstart=potentials,
        )
        # Potentials of POT are in units of ε, which the next stage divides.
        potentials = ANNEALING * log["log_u"], ANNEALING * log["log_v"]
    return plan


@SOLVERS.register("semirelaxed")
def semirelaxed(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The exact plan for free ν: each source goes to its (first) nearest target."""
    plan = torch.zeros_like(problem.cost)
    plan.scatter_(1, problem.cost.argmin(1, keepdim=True), problem.mu[:, None])
    return plan, problem.mu, plan.sum(0)


@SOLVERS.register("semirelaxed-entropic")
def semirelaxed_entropic(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The entropic plan for free ν, in closed form: P_ij = μ_i softmax_j(-C_ij / ε)."""
    plan = problem.mu[:, None] * torch.softmax(-problem.cost / problem.epsilon, 1)
    return plan, problem.mu, plan.sum(0)


@SOLVERS.register("partial")
def partial(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The exact cheapest plan of a share s of the mass.

    A dummy target and source take the rest (Caffarelli and McCann 2010, Chapel et al. 2020); POT errs at costs ≤ 0.
    """
    if problem.mass == 1:
        return emd(problem)
    # With a fixed total a constant in all costs changes nothing: bring them to [1, 2].
    cost = problem.cost - problem.cost.min()
    cost = 1 + cost / (float(cost.max()) or 1.0)
    left = torch.tensor([1 - problem.mass], dtype=torch.float64)
    mu, nu = torch.cat([problem.mu, left]), torch.cat([problem.nu, left])
    extended = torch.nn.functional.pad(cost, (0, 1, 0, 1))
    extended[-1, -1] = 2 * cost.max()
    plan = _simplex(problem, "partial", mu, nu, extended)[:-1, :-1]
    # Rounding (1e-17) is no mass: normalised, it would fill a column of push.
    plan = torch.where(plan > MASS_ROUNDING * torch.minimum(problem.mu[:, None], problem.nu[None, :]), plan, 0.0)
    return plan, plan.sum(1), plan.sum(0)


@SOLVERS.register("unbalanced")
def unbalanced(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The entropic plan with penalised marginals, annealed like Sinkhorn."""
    return unbalanced_sinkhorn(
        problem.cost, problem.mu, problem.nu, problem.relaxation, _annealed(problem), tolerance=0.1 * TIGHT
    )


def _simplex(problem: Problem, name: str, mu: Tensor, nu: Tensor, cost: Tensor) -> Tensor:
    import ot

    limit = problem.max_iterations or EMD_ITERATIONS
    for allowed in (limit, 10 * limit):
        with warnings.catch_warnings():
            # The log of POT holds the same warnings, and is checked below.
            warnings.simplefilter("ignore")
            plan, log = ot.emd(mu.numpy(), nu.numpy(), cost.numpy(), numItermax=allowed, center_dual=False, log=True)
        if log["warning"] is None:
            return torch.from_numpy(plan)
    raise CouplingError(f"{problem.space}: {name} did not converge in {10 * limit} iterations ({log['warning']})")


def _annealed(problem: Problem) -> Iterator[tuple[float, int]]:
    """ε from the largest cost down, and iterations."""
    limit = problem.max_iterations or SINKHORN_ITERATIONS
    largest = float(problem.cost.max())
    stages = max(0, math.ceil(math.log(max(largest / problem.epsilon, 1.0), ANNEALING)))
    for stage in range(stages, -1, -1):
        yield problem.epsilon * ANNEALING**stage, min(limit, ANNEALING_ITERATIONS) if stage else limit
