"""The order of work on one model: what lies before, inside and behind the layers, and what is fitted together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from compressor.anatomy import Anatomy, Norm, Step
from compressor.fusion.structure import reader
from compressor.fusion.walk import Spot

#: Modules that are fitted together: linears that read the same input and write the same inner space, or one norm.
Stage = list[Step | Norm]


class Outline:
    """An anatomy cut into the pieces that the walk visits.

    Args:
        anatomy: the student's anatomy (the teachers' have the same modules).
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.layers = anatomy.layers

    @cached_property
    def outside_parameters(self) -> list[str]:
        """Parameters that belong to no layer."""
        inside = tuple(layer + "." for layer in self.layers)
        return [name for name in self.anatomy.axes if not name.startswith(inside)]

    @cached_property
    def outside_spaces(self) -> list[str]:
        """Hidden spaces that belong to no layer, as a pooler's."""
        inside = tuple(layer + "." for layer in self.layers)
        residual = self.anatomy.residual.name
        return [name for name in self.anatomy.spaces if name != residual and not name.startswith(inside)]

    def parameters(self, layer: str) -> list[str]:
        return [name for name in self.anatomy.axes if name.startswith(layer + ".")]

    def spaces(self, layer: str) -> list[str]:
        return [name for name in self.anatomy.spaces if name.startswith(layer + ".")]

    def touches(self, parameter: str, spaces: Sequence[str]) -> bool:
        """Whether a parameter has an axis in one of the spaces."""
        return any(part.key in spaces for axis in self.anatomy.axes[parameter] for part in axis.parts)

    @cached_property
    def head(self) -> list[Norm]:
        """Norms before the layers that cannot be folded: their scale is fitted before anything runs."""
        first = next(i for i, item in enumerate(self.anatomy.flow) if item.module.startswith(self.layers[0] + "."))
        return [item for item in self.anatomy.flow[:first] if isinstance(item, Norm) and not self.folds(item)]

    @cached_property
    def tail(self) -> list[Step | Norm]:
        """Linear modules and unfolded norms behind the layers; weights tied to an embedding are not fitted."""
        inside = tuple(layer + "." for layer in self.layers)
        last = max(i for i, item in enumerate(self.anatomy.flow) if item.module.startswith(inside))
        return [
            item
            for item in self.anatomy.flow[last + 1 :]
            if f"{item.module}.weight" in self.anatomy.axes and not (isinstance(item, Norm) and self.folds(item))
        ]

    def folds(self, norm: Norm) -> bool:
        """Whether this norm has no scale of its own in the student."""
        return self.anatomy.canonical and norm.folded

    def stages(self, layer: str) -> list[Stage]:
        """What is fitted in a layer, in the order of the forward pass."""
        stages: list[Stage] = []
        residual = self.anatomy.residual.name
        for item in self._items(layer):
            if isinstance(item, Norm):
                if not self.folds(item):
                    stages.append([item])
            elif item.writes == residual:
                if item.checkpoint is not None:
                    stages.append([item])
            elif stages and _alike(stages[-1][-1], item):
                stages[-1].append(item)
            else:
                stages.append([item])
        return stages

    def layer_spots(self, layer: str) -> list[Spot]:
        """What the teachers must show of a layer: outputs of inner writers, the residual behind its writers, norms."""
        spots: list[Spot] = []
        for item in self._items(layer):
            if isinstance(item, Norm):
                spots += [] if self.folds(item) else [(item.module, "out")]
            elif (behind := checkpoint(item)) is not None:
                spots.append(behind)
            else:
                spots.append((item.module, "out"))
        return list(dict.fromkeys(spots))

    def thin_spots(self, layer: str) -> list[Spot]:
        """What some tokens of are enough, to choose units by: what the readers of inner spaces read and write."""
        readers = [reader(self.anatomy, space).module for space in self.spaces(layer)]
        return [(module, end) for module in readers for end in ("in", "out")]

    def tail_spots(self) -> list[Spot]:
        """What the teachers must show behind the layers."""
        spots: list[Spot] = [(item.module, "out") for item in self.tail]
        spots += [(reader(self.anatomy, space).module, "in") for space in self.outside_spaces]
        return list(dict.fromkeys(spots))

    def _items(self, layer: str) -> list[Step | Norm]:
        return [item for item in self.anatomy.flow if item.module.startswith(layer + ".")]


def checkpoint(step: Step) -> Spot | None:
    """Where the residual stream is seen right behind a writer."""
    return None if step.checkpoint is None else (step.checkpoint, "out" if step.checkpoint_is_output else "in")


def _alike(before: Step | Norm, step: Step) -> bool:
    return isinstance(before, Step) and before.writes == step.writes and before.reads == step.reads
