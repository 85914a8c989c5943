"""A student whose maps are made along the flow while it is built, and forgotten once nothing asks for them."""

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
    """A student all of whose spaces are aligned to an anchor.

    Attributes:
        alignment: makes the maps; `residual` holds those that are known and not forgotten.
    """

    residual: dict[str, ResidualMap]
    alignment: Alignment = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._left = set(self.anatomy.axes)
        self._streams = set(stream_keys(self.anatomy).values())

    def map_spaces(self, names: Sequence[str], features: Features) -> None:
        """Nothing for spaces that are aligned: their maps come with the parameters that need them."""
        aligned = self.alignment.schedule.made
        keys = {name: (name, map_key(name, Role.QUERY)) for name in names}
        super().map_spaces([name for name in names if not any(key in aligned for key in keys[name])], features)

    @torch.no_grad()
    def transport(self, names: Sequence[str]) -> None:
        """As of any student, with the maps that these parameters need."""
        for found in self.alignment.until(self._keys(names)):
            self.residual[found.key] = ResidualMap(found.maps)
            self.couplings += found.summaries
            for own, one in zip(self.maps, found.maps, strict=True):
                own[found.key] = one
        super().transport(names)
        self._left.difference_update(names)

    def forget(self, names: Sequence[str]) -> None:
        """Let go of every map that no parameter to come, no embedding and no finetune asks for."""
        asked = self._keys(self._left) | {stack.residual for stack in self.anatomy.stacks} | self._streams
        for key in self.residual.keys() - asked:
            del self.residual[key]
            for own in self.maps:
                del own[key]

    def _keys(self, names: Collection[str]) -> set[str]:
        """The map keys of parameters, and of the sums that their modules take part in."""
        keys = {part.key for name in names for axis in self.anatomy.axes[name] for part in axis.parts}
        for item in self.anatomy.flow:
            weight = item.weight if isinstance(item, LinearOp) else f"{item.module}.weight"
            if weight in names:
                keys.add(item.joins)
        return {key for key in keys if key is not None}
