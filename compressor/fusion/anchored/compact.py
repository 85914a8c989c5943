"""What is kept of a coupling once it is solved: its entries or its plan, and what the report says of it."""

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
    """A coupling without dense matrices where its plan is hard.

    Attributes:
        plan: [n, m] float64; of a hard plan its entries alone.
        mu, nu: its marginals.
        received: what arrives at each target, [m].
        summary: its figures, of the dense plan.
    """

    plan: Tensor | Entries
    mu: Tensor
    nu: Tensor
    received: Tensor
    summary: dict[str, Any]

    @classmethod
    def of(cls, coupling: Coupling) -> CompactCoupling:
        plan = Entries.of(coupling.plan)
        return cls(
            coupling.plan if plan is None else plan, coupling.mu, coupling.nu, coupling.plan.sum(0), coupling.summary()
        )  # fmt: skip

    def push(self) -> Entries | Deferred:
        """As `Coupling.push`."""
        return scaled(self.plan, columns=inverse(self.nu))

    def pull(self) -> Entries | Deferred:
        """As `Coupling.pull`."""
        return scaled(self.plan, rows=inverse(self.mu))

    def map(self, *, one_matrix: bool = False) -> Map:
        """The map of this teacher alone; one_matrix: with the push for readers too."""
        return Map(self.push(), self.push() if one_matrix else self.pull())


def pooled_compact_maps(
    kept: Sequence[CompactCoupling], weights: Sequence[float], scales: Sequence[float], *, one_matrix: bool = False
) -> tuple[Map, ...]:
    """Maps of all teachers to one shared support, as `pooled_maps` makes them of couplings.

    Args:
        kept: one per teacher, all to the same m targets.
        weights: α per teacher.
        scales: what each teacher's push is multiplied by.
        one_matrix: use each teacher's push, without α, for readers too.
    """
    mass = sum((a * one.received for a, one in zip(weights, kept, strict=True)), start=torch.zeros_like(kept[0].nu))
    inverse_mass = torch.where(mass > 0, 1 / mass, 0.0)
    return tuple(
        Map(scaled(one.plan, columns=inverse_mass, by=(a, scale)), one.push() if one_matrix else one.pull())
        for one, a, scale in zip(kept, weights, scales, strict=True)
    )
