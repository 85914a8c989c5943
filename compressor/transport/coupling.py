"""Couplings, and the matrices push and pull that transport weights.

P [n, m] is mass from teacher to student, with row sums μ, column sums ν.

    push = P diag(1/ν)   *mean* of coupled values     W' = pushᵀ W   (the paper's T diag(1/β))
    pull = diag(1/μ) P   *sum* of coupled readers     W' = W pull
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compressor.errors import CouplingError, CouplingWarning
from compressor.transport.marginals import inverse, uniform
from compressor.transport.sketch import sketch

#: Marginal errors above TIGHT cause a warning, those above LOOSE an error.
TIGHT = 1e-6
LOOSE = 1e-2
#: Solver name of mixes, whose marginals are no worse than their parts'.
MIXED = "mixed"


@dataclass(frozen=True, eq=False)
class Coupling:
    """A transport plan and its marginals, checked.

    Attributes:
        plan: [n, m], float64.
        mu, nu: marginals [n], [m]; zero if untransported or empty.
        cost_value: <P, C>, or None.
        transported: mass before normalisation.

    Raises:
        CouplingError: invalid mass, or marginal error above `LOOSE`.

    Warns:
        CouplingWarning: above `TIGHT`, except in mixes.
    """

    plan: Tensor
    mu: Tensor
    nu: Tensor
    cost_value: float | None
    solver: str
    space: str
    transported: float = 1.0

    def __post_init__(self) -> None:
        if self.plan.shape != (self.mu.numel(), self.nu.numel()):
            raise CouplingError(
                f"{self.space}: plan of shape {tuple(self.plan.shape)} does not fit "
                f"marginals of sizes {self.mu.numel()} and {self.nu.numel()}"
            )
        ends = [end for mass in (self.plan, self.mu, self.nu) for end in map(float, mass.aminmax())]
        if not all(map(math.isfinite, ends)):
            raise CouplingError(f"{self.space}: the {self.solver} coupling has mass that is not finite")
        if ends[0] < 0:
            raise CouplingError(f"{self.space}: the {self.solver} coupling has negative mass")
        if self.marginal_error > TIGHT:
            message = (
                f"{self.space}: the {self.solver} coupling misses its marginals by {self.marginal_error:.1e} "
                f"(exact below {TIGHT:.0e}, refused above {LOOSE:.0e}): raise epsilon or the iterations"
            )
            if self.marginal_error > LOOSE:
                raise CouplingError(message)
            if self.solver != MIXED:
                warnings.warn(message, CouplingWarning, stacklevel=3)

    @cached_property
    def entropy(self) -> float:
        """-Σ P log P in nats."""
        # Of the plan's mass alone: most of a selection is empty.
        return float(torch.special.entr(self.plan[self.plan > 0]).sum())

    @cached_property
    def marginal_error(self) -> float:
        """Largest error of pull's rows or push's columns."""
        return max(_relative_error(self.plan.sum(1), self.mu), _relative_error(self.plan.sum(0), self.nu))

    def push(self) -> Tensor:
        """P diag(1/ν) [n, m]; empty targets are zero."""
        return self.plan * inverse(self.nu)[None, :]

    def pull(self) -> Tensor:
        """diag(1/μ) P [n, m]; untransported sources are zero."""
        return self.plan * inverse(self.mu)[:, None]

    def summary(self) -> dict[str, Any]:
        """JSON-ready numbers and sketch."""
        return {
            "space": self.space,
            "solver": self.solver,
            "source": self.mu.numel(),
            "target": self.nu.numel(),
            "cost": self.cost_value,
            "entropy": self.entropy,
            "marginal_error": self.marginal_error,
            "transported": self.transported,
            "untransported": int((self.mu == 0).sum()),
            "empty_targets": int((self.nu == 0).sum()),
            "plan": sketch(self.plan, by_source=True),
        }


def from_selection(indices: Tensor, n: int, *, space: str = "space") -> Coupling:
    """Target j takes source indices[j] of n."""
    m = indices.numel()
    nu = uniform(m)
    plan = _one_hot_plan(indices.long(), torch.arange(m), nu, (n, m), space)
    return Coupling(plan, plan.sum(1), nu, None, "selection", space)


def identity_coupling(n: int, *, space: str = "space") -> Coupling:
    """The identity coupling."""
    return Coupling(torch.diag(uniform(n)), uniform(n), uniform(n), None, "identity", space)


def mixed(first: Coupling, second: Coupling, share: float | Tensor) -> Coupling:
    """share · first + (1 - share) · second, as the paper joins branch and skip; share in [0, 1], one or [m].

    Raises:
        CouplingError: inputs do not fit, or a source loses all mass.
    """
    if first.plan.shape != second.plan.shape:
        shapes = f"{tuple(first.plan.shape)} and {tuple(second.plan.shape)}"
        raise CouplingError(f"{first.space}: couplings of shapes {shapes} cannot be mixed")
    weight = torch.as_tensor(share, dtype=torch.float64)
    if weight.shape not in ((), second.nu.shape) or not bool(((weight >= 0) & (weight <= 1)).all()):
        raise CouplingError(
            f"{first.space}: shares of a mix must be in [0, 1], one or {second.nu.numel()} (one per target)"
        )
    # With shares per target and different ν the total may not be one.
    total = torch.lerp(second.nu, first.nu, weight).sum()
    plan = torch.lerp(second.plan, first.plan, weight) / total
    nu = torch.lerp(second.nu, first.nu, weight) / total
    mu = plan.sum(1)
    lost = int(((mu <= 0) & (first.mu > 0) & (second.mu > 0)).sum())
    if lost:
        raise CouplingError(
            f"{first.space}: the mix leaves {lost} sources without mass: use shares above 0 and below 1, or one for all"
        )
    mean = float(weight.mean())
    transported = mean * first.transported + (1 - mean) * second.transported
    return Coupling(plan, mu, nu, None, MIXED, first.space, transported)


def _one_hot_plan(rows: Tensor, columns: Tensor, mass: Tensor, shape: tuple[int, int], space: str) -> Tensor:
    for index, size, end in ((rows, shape[0], "source"), (columns, shape[1], "target")):
        if index.numel() == 0 or int(index.min()) < 0 or int(index.max()) >= size:
            raise CouplingError(f"{space}: {end} indices must be in [0, {size}) and at least one")
    plan = torch.zeros(shape, dtype=torch.float64)
    plan[rows, columns] = mass
    return plan


def _relative_error(sums: Tensor, marginal: Tensor) -> float:
    scale = torch.where(marginal > 0, marginal, 1.0)
    return float(((sums - marginal).abs() / scale).max())
