"""Ridge regression in closed form.

    W = W₀ + (UᵀU + λ d̄ I)⁻¹ Uᵀ(Y - U W₀),   d̄ = mean of diag(UᵀU)

U: the student's inputs; Y: transported targets; W₀: the transported weight or zero.  Held-out error chooses λ, W₀.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compressor.fusion.calibration.statistics import Regression

#: Ridges tried, relative to the mean input variance.
RIDGES: tuple[float, ...] = (1e-10, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
#: Least ridge in units of the precision of the sums.
RIDGE_FLOOR = 100.0


@dataclass(frozen=True)
class RidgeFit:
    """A fitted linear map.

    Attributes:
        weight: [n, m] float64.
        bias: [m].
        prior: whether W₀ was the transported weight.
        error: squared error over target variance, held-out if possible.
    """

    weight: Tensor
    bias: Tensor | None
    ridge: float
    prior: bool
    error: float


def fit_ridge(
    train: Regression,
    held_out: Regression | None,
    prior: Tensor | None,
    *,
    intercept: bool,
    ridges: Sequence[float] = RIDGES,
) -> RidgeFit:
    """Choose λ and prior by held-out error, and refit on all samples.

    Args:
        held_out: if empty, the first λ and the transported prior win.
        prior: transported weight [n, m]; None for zero.
    """
    # A smaller ridge would fit rounding, along directions that inputs do not have.
    ridges = sorted({max(ridge, RIDGE_FLOOR * train.precision) for ridge in ridges})
    zero = torch.zeros_like(train.cross)
    if held_out is None or not held_out.count:
        # Training error would always choose the least ridge.
        start, solver = zero if prior is None else prior.double(), _Ridge(train, intercept)
        weight = solver.solve_once(start, ridges[0])
        error = _error(train, weight, solver.shift(weight))
        return RidgeFit(weight, solver.bias(weight), ridges[0], prior is not None, error)
    priors = [zero] if prior is None else [prior.double(), zero]
    solver = _Ridge(train, intercept)
    # Errors below zero are rounding: of exact fits the most damped is safest.
    candidates = [
        (max(0.0, _error(held_out, weight, solver.shift(weight))), -ridge, index)
        for ridge in ridges
        for index, start in enumerate(priors)
        for weight in [solver.solve(start, ridge)]
    ]
    error, ridge, index = min(candidates)
    ridge = -ridge
    final = _Ridge(train + held_out, intercept)
    weight = final.solve_once(priors[index], ridge)
    return RidgeFit(weight, final.bias(weight), ridge, prior is not None and index == 0, error)


class _Ridge:
    """Normal equations of one regression."""

    def __init__(self, sums: Regression, intercept: bool) -> None:
        count = max(sums.count, 1)
        self.intercept, self.origin = intercept, sums.origin
        self.input_mean = sums.inputs / count
        self.output_mean = sums.outputs / count
        gram, cross = sums.gram, sums.cross
        if intercept:
            gram = gram - count * torch.outer(self.input_mean, self.input_mean)
            cross = cross - count * torch.outer(self.input_mean, self.output_mean)
        self.gram, self.cross = gram, cross
        self.scale = float(gram.diagonal().mean().clamp(min=1e-30))

    @cached_property
    def decomposed(self) -> tuple[Tensor, Tensor]:
        """Eigendecomposition that all λ share."""
        values, vectors = torch.linalg.eigh((self.gram + self.gram.T) / 2)
        return values.clamp(min=0), vectors

    def solve(self, prior: Tensor, ridge: float) -> Tensor:
        values, vectors = self.decomposed
        missing = vectors.T @ (self.cross - self.gram @ prior)
        return prior + vectors @ (missing / (values + ridge * self.scale)[:, None])

    def solve_once(self, prior: Tensor, ridge: float) -> Tensor:
        """As `solve`, faster for a single λ."""
        damped = self.gram + ridge * self.scale * torch.eye(len(self.gram), dtype=torch.float64)
        return prior + torch.cholesky_solve(self.cross - self.gram @ prior, torch.linalg.cholesky(damped))

    def shift(self, weight: Tensor) -> Tensor | None:
        """Intercept relative to the rows' origin."""
        return self.output_mean - self.input_mean @ weight if self.intercept else None

    def bias(self, weight: Tensor) -> Tensor | None:
        """Intercept of the rows themselves."""
        shift = self.shift(weight)
        if shift is None or self.origin is None:
            return shift
        return shift + self.origin[1].double() - self.origin[0].double() @ weight


def _error(sums: Regression, weight: Tensor, shift: Tensor | None) -> float:
    """Σ |y - uW - b|² / Σ |y - ȳ|², from sums."""
    count = max(sums.count, 1)
    squares = sums.energy - 2 * (weight * sums.cross).sum() + (weight * (sums.gram @ weight)).sum()
    if shift is not None:
        squares = squares - 2 * shift @ sums.outputs + 2 * (sums.inputs @ weight) @ shift + count * shift @ shift
    spread = sums.energy - float(sums.outputs.square().sum()) / count
    return float(squares) / max(spread, 1e-30)


def fit_scales(
    gram: Tensor, total: Tensor, cross: Tensor, target: Tensor, count: Tensor, *, table: Tensor, shifts: bool
) -> tuple[Tensor, Tensor | None]:
    """Fit scale γ and shift β before a fixed head: least squares of (u ∘ γ + β) Eᵀ to centred logits y.

    Normal equations are Hadamard products: Σ uuᵀ ∘ EᵀE for γ, count · EᵀE for β.

    Args:
        gram, total: Σ uᵀu [m, m] and Σ u [m]; directions without evidence keep γ = 1.
        cross: Σ u ∘ (yE) [m].
        target: Σ yE [m].
        table: E [vocabulary, m].

    Returns:
        γ [m] and β [m], if it shifts.
    """
    centred = table - table.mean(dim=0)
    inner = centred.T @ centred
    size = len(inner)
    left = gram * inner
    if shifts:
        side = total[:, None] * inner
        left = torch.cat([torch.cat([left, side], dim=1), torch.cat([side.T, count * inner], dim=1)])
    right = torch.cat([cross, target]) if shifts else cross
    start = torch.zeros(len(left), dtype=torch.float64)
    start[:size] = 1.0
    damped = left + 1e-8 * left.diagonal().mean() * torch.eye(len(left), dtype=torch.float64)
    solution = start + torch.linalg.solve(damped, right - left @ start)
    return solution[:size], solution[size:] if shifts else None
