"""Ridge regression in closed form.

    W = W₀ + (UᵀU + λ d̄ I)⁻¹ Uᵀ(Y - U W₀),   d̄ = mean of diag(UᵀU)

U: the student's inputs; Y: transported targets; W₀: the transported weight or zero.  Held-out error chooses λ, W₀.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.fusion.calibration.statistics import Regression

#: Ridges tried, relative to the mean input variance.
RIDGES: tuple[float, ...] = (1e-10, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
#: Least ridge in units of the precision of the sums.
RIDGE_FLOOR = 100.0
#: Inputs times outputs that are solved together: of a vocabulary, one block of words at a time is in memory.
BLOCK_ENTRIES = 1 << 22


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
        prior: transported weight [n, m], of any precision; None for zero.
    """
    # A smaller ridge would fit rounding, along directions that inputs do not have.
    ridges = sorted({max(ridge, RIDGE_FLOOR * train.precision) for ridge in ridges})
    means = _Means.of(train) if intercept else None
    if held_out is None or not held_out.count:
        # Training error would always choose the least ridge.
        weight, bias = _solve([train], prior, ridges[0], intercept=intercept)
        error = _error(_Centred([train], means), weight) / _spread(train)
        return RidgeFit(weight, bias, ridges[0], prior is not None, error)
    priors = [None] if prior is None else [prior, None]
    grid = _RidgeGrid(_Centred([train], means), _Centred([held_out], means))
    # Errors below zero are rounding: of exact fits the most damped is safest.
    candidates = [
        (max(0.0, error / _spread(held_out)), -ridge, index)
        for index, start in enumerate(priors)
        for ridge, error in zip(ridges, grid.errors(start, ridges), strict=True)
    ]
    del grid
    error, ridge, index = min(candidates)
    weight, bias = _solve([train, held_out], priors[index], -ridge, intercept=intercept)
    return RidgeFit(weight, bias, -ridge, priors[index] is not None, error)


@dataclass(frozen=True, eq=False)
class _Means:
    """Means of inputs [n] and outputs [m], and the sums that they are of."""

    inputs: Tensor
    outputs: Tensor
    owner: Sequence[Regression]

    @classmethod
    def of(cls, *owner: Regression) -> _Means:
        count = max(sum(sums.count for sums in owner), 1)
        return cls(_total([sums.inputs for sums in owner]) / count, _total([s.outputs for s in owner]) / count, owner)


class _Centred:
    """Sums of one or more regressions of one origin, around means.

    Attributes:
        gram: Σ (u - ū)ᵀ(u - ū) [n, n].
    """

    def __init__(self, sums: Sequence[Regression], means: _Means | None) -> None:
        self._sums, self._means = list(sums), means
        self.count = max(sum(part.count for part in self._sums), 1)
        self.gram = _total([part.gram for part in self._sums])
        #: Σ (u - ū) and Σ (y - ȳ); None where they are zero by definition.
        self._rest: tuple[Tensor, Tensor] | None = None
        if means is None:
            return
        self.gram = self.gram - self.count * torch.outer(means.inputs, means.inputs)
        if list(means.owner) != self._sums:
            inputs, outputs = _total([s.inputs for s in self._sums]), _total([s.outputs for s in self._sums])
            self._rest = inputs - self.count * means.inputs, outputs - self.count * means.outputs
            side = torch.outer(self._rest[0], means.inputs)
            self.gram = self.gram - side - side.T

    def cross(self, columns: slice) -> Tensor:
        """Σ (u - ū)ᵀ(y - ȳ) of some outputs, [n, columns]."""
        cross, means = _total([part.cross[:, columns] for part in self._sums]), self._means
        if means is None:
            return cross
        cross = cross - self.count * torch.outer(means.inputs, means.outputs[columns])
        if self._rest is not None:
            inputs, outputs = self._rest
            cross -= torch.outer(inputs, means.outputs[columns]) + torch.outer(means.inputs, outputs[columns])
        return cross

    @property
    def energy(self) -> float:
        """Σ |y - ȳ|²."""
        energy, means = sum(part.energy for part in self._sums), self._means
        if means is None:
            return energy
        total = _total([part.outputs for part in self._sums])
        return energy + float(self.count * means.outputs @ means.outputs - 2 * means.outputs @ total)

    @property
    def scale(self) -> float:
        """Mean square of an input's deviations, summed over rows; at least that of rounding."""
        return max(float(self.gram.diagonal().mean()), self._rounding, 1e-30)

    @property
    def _rounding(self) -> float:
        """What deviations of inputs that are all alike may add up to (the queries of a detector's first layer)."""
        origin, precision = self._sums[0].origin, max(part.precision for part in self._sums)
        return 0.0 if origin is None else self.count * float((RIDGE_FLOOR * precision * origin[0]).square().mean())

    def missing(self, prior: Tensor | None, columns: slice) -> Tensor:
        """Uᵀ(Y - U W₀) of some outputs."""
        cross = self.cross(columns)
        return cross if prior is None else cross - self.gram @ prior[:, columns].double()

    def blocks(self) -> Iterator[slice]:
        """Outputs that are solved together."""
        inputs, outputs = self._sums[0].cross.shape
        size = max(1, BLOCK_ENTRIES // inputs)
        return (slice(start, min(start + size, outputs)) for start in range(0, outputs, size))


class _RidgeGrid:
    """Held-out errors of all λ from sums that they share.

    With UᵀU = V diag(s) Vᵀ, E = VᵀUᵀ(Y - U W₀) and D = 1 / (s + λ d̄), W = W₀ + V diag(D) E.  The error on other
    samples, of Gram matrix G and missing product R = G's Uᵀ(Y - U W₀), is then

        e₀ - 2 D·diag(E Rᵀ V) + Dᵀ(VᵀGV ∘ E Eᵀ)D,   e₀ = Σ |y - u W₀|².
    """

    def __init__(self, train: _Centred, held_out: _Centred) -> None:
        self._train, self._held_out = train, held_out
        values, self._vectors = torch.linalg.eigh((train.gram + train.gram.T) / 2)
        self._values = values.clamp(min=0)
        self._gram = self._vectors.T @ held_out.gram @ self._vectors

    def errors(self, prior: Tensor | None, ridges: Sequence[float]) -> list[float]:
        """Σ |y - uW|² of held-out samples, by λ."""
        start, linear = self._held_out.energy, torch.zeros_like(self._values)
        products = torch.zeros_like(self._gram)
        for columns in self._train.blocks():
            fitted = self._vectors.T @ self._train.missing(prior, columns)
            missing = self._held_out.missing(prior, columns)
            linear += (fitted * (self._vectors.T @ missing)).sum(1)
            products.addmm_(fitted, fitted.T)
            if prior is not None:
                # Σ |y - u W₀|² = Σ |y|² - tr W₀ᵀ(C + R), where C = Uᵀy.
                both = self._held_out.cross(columns) + missing
                start -= float((prior[:, columns].double() * both).sum())
        quadratic = products.mul_(self._gram)
        damped = [1 / (self._values + ridge * self._train.scale) for ridge in ridges]
        return [float(start - 2 * d @ linear + d @ (quadratic @ d)) for d in damped]


def _solve(
    sums: Sequence[Regression], prior: Tensor | None, ridge: float, *, intercept: bool
) -> tuple[Tensor, Tensor | None]:
    """Weight [n, m] and bias [m] of one λ."""
    means = _Means.of(*sums) if intercept else None
    centred = _Centred(sums, means)
    factor = torch.linalg.cholesky(centred.gram + ridge * centred.scale * torch.eye(len(centred.gram)).double())
    weight = torch.empty_like(sums[0].cross)
    for columns in centred.blocks():
        solved = torch.cholesky_solve(centred.missing(prior, columns), factor)
        weight[:, columns] = solved if prior is None else prior[:, columns].double() + solved
    if means is None:
        return weight, None
    shift, origin = means.outputs - means.inputs @ weight, sums[0].origin
    return weight, shift if origin is None else shift + origin[1].double() - origin[0].double() @ weight


def _error(sums: _Centred, weight: Tensor) -> float:
    """Σ |(y - ȳ) - (u - ū)W|²."""
    squares = sums.energy
    for columns in sums.blocks():
        part = weight[:, columns]
        squares -= float((part * (2 * sums.cross(columns) - sums.gram @ part)).sum())
    return squares


def _spread(sums: Regression) -> float:
    """Σ |y - ȳ|², of the sums' own mean."""
    return max(sums.energy - float(sums.outputs.square().sum()) / max(sums.count, 1), 1e-30)


def _total(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else sum(parts[1:], start=parts[0])


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
