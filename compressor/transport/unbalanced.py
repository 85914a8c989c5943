"""Unbalanced entropic transport: minimise <P, C> + ε KL(P | μ ⊗ ν) + ρ KL(P1 | μ) + ρ KL(Pᵀ1 | ν).

P_ij = μ_i ν_j exp((f_i + g_j - C_ij) / ε), by Sinkhorn damped by ρ / (ρ + ε) (Chizat et al. 2018), with shifts of f, g
(Séjourné, Vialard and Peyré 2022).  In logarithms: exp(-C/ε) underflows.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

#: Less mass counts as none: the plan would lose its digits.
FAINT = 1e-200


def unbalanced_sinkhorn(
    cost: Tensor, mu: Tensor, nu: Tensor, rho: float, stages: Iterable[tuple[float, int]], *, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The plan [n, m] of any mass, and its marginals.

    `stages` are (ε, iterations), in units of the cost, warm-started; `tolerance` bounds relative marginal errors.
    """
    # For ρ ≫ ε, rounding of the totals would change the transported mass.
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
    """log Σ mass exp(values), exact near zero."""
    top = values.max()
    return top + torch.log1p((mass * torch.expm1(values - top)).sum())
