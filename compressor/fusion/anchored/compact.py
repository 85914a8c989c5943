"""Solved couplings in little memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressor.anatomy import Map
from compressor.transport import Coupling, inverse
from compressor.utils.sparse import Deferred, Entries, scaled


@dataclass(frozen=True, eq=False)
class CompactCoupling:
    """A coupling, without dense matrices if its plan is hard.

    Attributes:
        plan: [n, m] float64, or its entries.
        received: mass per target [m].
    """

    plan: Tensor | Entries
    mu: Tensor
    nu: Tensor
    received: Tensor
    summary: dict[str, Any]

    @classmethod
    def of(cls, coupling: Coupling) -> CompactCoupling:
        entries = Entries.of(coupling.plan)
        plan = coupling.plan if entries is None else entries
        return cls(plan, coupling.mu, coupling.nu, coupling.plan.sum(0), coupling.summary())

    def push(self) -> Entries | Deferred:
        """As `Coupling.push`."""
        return scaled(self.plan, columns=inverse(self.nu))

    def pull(self) -> Entries | Deferred:
        """As `Coupling.pull`."""
        return scaled(self.plan, rows=inverse(self.mu))

    def map(self, *, one_matrix: bool = False) -> Map:
        """This teacher's map alone; one_matrix: readers take the push."""
        return Map(self.push(), self.push() if one_matrix else self.pull())


def pooled_compact_maps(
    couplings: Sequence[CompactCoupling],
    weights: Sequence[float],
    scales: Sequence[float],
    *,
    one_matrix: bool = False,
) -> tuple[Map, ...]:
    """Maps of all teachers to shared targets, as `pooled_maps`.

    Args:
        weights: α.
        one_matrix: readers take the push, without α.
    """
    start = torch.zeros_like(couplings[0].nu)
    mass = sum((a * coupling.received for a, coupling in zip(weights, couplings, strict=True)), start=start)
    inverse_mass = torch.where(mass > 0, 1 / mass, 0.0)
    return tuple(
        Map(
            scaled(coupling.plan, columns=inverse_mass, by=(a, scale)),
            coupling.push() if one_matrix else coupling.pull(),
        )
        for coupling, a, scale in zip(couplings, weights, scales, strict=True)
    )
