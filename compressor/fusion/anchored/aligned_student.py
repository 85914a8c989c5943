"""A student whose maps live only while needed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch

from compressor.anatomy import LinearOp, Role, map_key
from compressor.anatomy.queries import stream_keys
from compressor.fusion.anchored.align import Alignment
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.features.base import Features
from compressor.fusion.maps.residual import ResidualMap


@dataclass(eq=False)
class AlignedStudent(StudentBuilder):
    """A student with all spaces aligned to an anchor."""

    residual: dict[str, ResidualMap]
    alignment: Alignment = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pending = set(self.anatomy.axes)
        self._streams = set(stream_keys(self.anatomy).values())

    def map_spaces(self, names: Sequence[str], features: Features) -> None:
        """Make the maps that are not aligned; `transport` makes the others."""
        aligned = self.alignment.schedule.made
        keys = {name: (name, map_key(name, Role.QUERY)) for name in names}
        super().map_spaces([name for name in names if not any(key in aligned for key in keys[name])], features)

    @torch.no_grad()
    def transport(self, names: Sequence[str]) -> None:
        """Make needed maps, and set parameters."""
        for aligned in self.alignment.until(self._keys(names)):
            self.residual[aligned.key] = ResidualMap(aligned.maps)
            self.report.couplings += aligned.summaries
            for teacher_maps, mapping in zip(self.maps, aligned.maps, strict=True):
                teacher_maps[aligned.key] = mapping
        super().transport(names)
        self._pending.difference_update(names)

    def forget(self, names: Sequence[str]) -> None:
        """Delete maps that no pending parameter, embedding or finetune needs."""
        needed = self._keys(self._pending) | {stack.residual for stack in self.anatomy.stacks} | self._streams
        for key in self.residual.keys() - needed:
            del self.residual[key]
            for teacher_maps in self.maps:
                del teacher_maps[key]

    def _keys(self, names: Collection[str]) -> set[str]:
        """Map keys of parameters and their sums."""
        keys = {part.key for name in names for axis in self.anatomy.axes[name] for part in axis.parts}
        for item in self.anatomy.flow:
            weight = item.weight if isinstance(item, LinearOp) else f"{item.module}.weight"
            if weight in names:
                keys.add(item.joins)
        return {key for key in keys if key is not None}
