"""Marginals: positive float64 mass of sum one."""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.errors import CouplingError

#: Allowed distance of a marginal's sum from one.
SUM_TOLERANCE = 1e-9


def uniform(n: int) -> Tensor:
    """Mass 1/n for n coordinates."""
    return torch.ones(n, dtype=torch.float64) / n


def from_importance(importance: Tensor, *, floor: float = 1e-3, space: str = "space") -> Tensor:
    """Mass proportional to importance [n], at least `floor` · mean.

    Raises:
        CouplingError: importance is invalid.
    """
    importance = importance.double()
    if not bool(torch.isfinite(importance).all()) or bool((importance < 0).any()) or not bool(importance.sum() > 0):
        raise CouplingError(f"{space}: importance must be finite, non-negative and not all zero")
    importance = importance.clamp_min(floor * float(importance.mean()))
    return check_marginal(importance / importance.sum(), importance.numel(), name="importance", space=space)


def check_marginal(marginal: Tensor, size: int, *, name: str = "marginal", space: str = "space") -> Tensor:
    """The checked marginal, float64 [size], or CouplingError."""
    marginal = marginal.double()
    if marginal.shape != (size,):
        raise CouplingError(f"{space}: {name} has shape {tuple(marginal.shape)}, expected ({size},)")
    if not bool(torch.isfinite(marginal).all()) or bool((marginal <= 0).any()):
        raise CouplingError(f"{space}: {name} must be finite and positive everywhere; give dead coordinates a floor")
    if abs(float(marginal.sum()) - 1) > SUM_TOLERANCE:
        raise CouplingError(f"{space}: {name} sums to {float(marginal.sum()):.6g} instead of 1; normalise it")
    return marginal


def inverse(marginal: Tensor) -> Tensor:
    """1 / marginal, 0 without mass."""
    # The inverse of a subnormal number could be infinite.
    return torch.where(marginal >= torch.finfo(marginal.dtype).tiny, 1 / marginal, 0.0)
