"""What was done to a student under construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from compressor.anatomy import Map
from compressor.transport import Coupling, sketch


@dataclass(eq=False)
class BuildReport:
    """What was done to a student, JSON-ready.

    Attributes:
        projections: other maps.
        not_reconstructed: why none was.
        last_layer: its fit to the ensemble's predictions, or that of all that comes after the layers.
    """

    couplings: list[dict[str, Any]] = field(default_factory=list)
    projections: list[dict[str, Any]] = field(default_factory=list)
    fits: list[dict[str, Any]] = field(default_factory=list)
    reconstructed: list[dict[str, Any]] = field(default_factory=list)
    not_reconstructed: str = ""
    head: dict[str, Any] | None = None
    last_layer: dict[str, Any] | None = None

    def add_maps(self, space: str, maps: Sequence[Mapping[str, Map]], couplings: Sequence[Coupling]) -> None:
        """Add a space's couplings, or else its maps.

        Of a coupling, `paired` are the student's coordinates that also have mass of other teachers.
        """
        # Couplings shared with a space of the same order of heads are reported here too.
        owners = sum(((coupling.nu > 0).long() for coupling in couplings), start=torch.zeros(1, dtype=torch.int64))
        for coupling in couplings:
            paired = int(((coupling.nu > 0) & (owners > 1)).sum())
            self.couplings.append({**coupling.summary(), "paired": paired, "space": space})
        for key in () if couplings else maps[0]:
            pulls = [teacher_maps[key].pull for teacher_maps in maps]
            self.projections += [
                # Experts have one map each: take the mean.
                {
                    "space": key,
                    "source": pull.shape[-2],
                    "target": pull.shape[-1],
                    "plan": sketch(pull.square().reshape(-1, *pull.shape[-2:]).mean(0)),
                }
                for pull in pulls
            ]
