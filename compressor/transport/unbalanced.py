"""Unbalanced entropic transport: minimise <P, C> + ε KL(P | μ ⊗ ν) + ρ KL(P1 | μ) + ρ KL(Pᵀ1 | ν).

With potentials f [n], g [m] the plan is P_ij = μ_i ν_j exp((f_i + g_j - C_ij) / ε); at the optimum P1 = μ exp(-f/ρ) and
Pᵀ1 = ν exp(-g/ρ).  Sinkhorn iterations, damped by ρ / (ρ + ε), ascend the dual (Chizat et al. 2018).  Each sweep also
shifts f and g by the best constant, which saves some ρ/ε iterations (Séjourné, Vialard and Peyré 2022, "Faster
Unbalanced Optimal Transport").  All is in the log domain: the kernel exp(-C/ε) of POT's solvers underflows for small ε.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

#: Coordinates with less mass than this get none: their part of the plan would lose its digits.
FAINT = 1e-200


def unbalanced_sinkhorn(
    cost: Tensor, mu: Tensor, nu: Tensor, rho: float, stages: Iterable[tuple[float, int]], *, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The plan [n, m], of any total mass, and its marginals [n] and [m].

    Args:
        cost: [n, m].
        mu, nu: marginals [n] and [m].
        rho: weight of the marginals' divergences, in units of the cost.
        stages: (ε in units of the cost, iterations), each starting from the last potentials.
        tolerance: relative error of the marginals that ends a stage.
    """
    # With ρ much larger than ε, a rounding error between the totals would change the transported mass.
    mu, nu = mu / mu.sum(), nu / nu.sum()
    f, g = torch.zeros_like(mu), torch.zeros_like(nu)
    for epsilon, iterations in stages:
        scaled, damped = cost / epsilon, 1 / (1 / epsilon + 1 / rho)
        for _ in range(iterations):
            before = f, g
            f = -damped * torch.logsumexp(nu.log()[None, :] + g[None, :] / epsilon - scaled, 1)
            g = -damped * torch.logsumexp(mu.log()[:, None] + f[:, None] / epsilon - scaled, 0)
            change = max(float((f - before[0]).abs().max()), float((g - before[1]).abs().max()))
            shift = rho / 2 * (_log_mean_exp(mu, -f / rho) - _log_mean_exp(nu, -g / rho))
            f, g = f + shift, g - shift
            if change <= tolerance * damped:
                break
    sources, targets = mu * torch.exp(-f / rho), nu * torch.exp(-g / rho)
    massive = (sources > FAINT)[:, None] & (targets > FAINT)[None, :]
    log_plan = mu.log()[:, None] + nu.log()[None, :] + (f[:, None] + g[None, :]) / epsilon - scaled
    plan = torch.where(massive, log_plan.exp(), 0.0)
    return plan, torch.where(sources > FAINT, sources, 0.0), torch.where(targets > FAINT, targets, 0.0)


def _log_mean_exp(mass: Tensor, values: Tensor) -> Tensor:
    """log Σ mass exp(values) for mass of sum one, exact near zero."""
    top = values.max()
    return top + torch.log1p((mass * torch.expm1(values - top)).sum())
