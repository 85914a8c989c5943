"""The order of work on one model: what lies before, inside and behind the layers, and what is fitted together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from compressor.anatomy import Anatomy, Kind, LinearOp, Norm
from compressor.anatomy.queries import reader, stream_tap
from compressor.fusion.calibration.layerwise import Tap

#: Modules that are fitted together: linears that read the same input and write the same inner space, writers that meet
#: the residual stream at the same place, or one norm.
FitStage = list[LinearOp | Norm]


class BuildPlan:
    """An anatomy cut into the pieces that the walk visits.

    Args:
        anatomy: the student's anatomy (the teachers' have the same modules).
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.layers = anatomy.layers
        self.streams = {space.name for space in anatomy.residuals}
        #: Residual and embedding spaces, whose maps are made before the walk.
        self.wide = [s.name for s in anatomy.spaces.values() if s.kind in (Kind.RESIDUAL, Kind.EMBEDDING)]

    @cached_property
    def outside_parameters(self) -> list[str]:
        """Parameters that belong to no layer."""
        return [name for name in self.anatomy.axes if not self._inside(name)]

    @cached_property
    def early_parameters(self) -> list[str]:
        """Those of them that are needed before the layers."""
        later = {*self.late_parameters, *(name for k in range(1, len(self.anatomy.stacks)) for name in self.between(k))}
        return [name for name in self.outside_parameters if name not in later]

    def between(self, stack: int) -> list[str]:
        """Those of them that belong to what is run between the stack before and this one."""
        before, after = self.anatomy.stacks[stack - 1].layers, self.anatomy.stacks[stack].layers
        modules = {item.module for item in self.anatomy.flow[self._last(before) + 1 : self._first(after)]}
        return [n for n in self.outside_parameters if n.rpartition(".")[0] in modules and n not in self.late_parameters]

    @cached_property
    def late_parameters(self) -> list[str]:
        """Those of them that belong to what is run behind the layers."""
        modules = {item.module for item in self.anatomy.flow[self._last(self.anatomy.stacks[-1].layers) + 1 :]}
        return [
            name
            for name in self.outside_parameters
            if name.rpartition(".")[0] in modules or self.touches(name, self.late_spaces)
        ]

    @cached_property
    def outside_spaces(self) -> list[str]:
        """Hidden spaces that belong to no layer, as a pooler's."""
        return [name for name in self.anatomy.spaces if name not in self.wide and not self._inside(name)]

    @cached_property
    def early_spaces(self) -> list[str]:
        """Those of them that are needed before the layers: channels between convolutions."""
        tail = {item.module for item in self.tail}
        readers = {name: reader(self.anatomy, name) for name in self.outside_spaces}
        return [name for name, step in readers.items() if step is None or step.module not in tail]

    @cached_property
    def late_spaces(self) -> list[str]:
        return [name for name in self.outside_spaces if name not in self.early_spaces]

    def parameters(self, layer: str) -> list[str]:
        return [name for name in self.anatomy.axes if name.startswith(layer + ".")]

    def spaces(self, layer: str) -> list[str]:
        """A layer's own spaces; experts before their units."""
        names = [name for name in self.anatomy.spaces if name.startswith(layer + ".") and name not in self.wide]
        return sorted(names, key=lambda name: self.anatomy.spaces[name].kind is not Kind.EXPERTS)

    def touches(self, parameter: str, spaces: Sequence[str]) -> bool:
        """Whether a parameter has an axis in one of the spaces."""
        return any(part.key in spaces for axis in self.anatomy.axes[parameter] for part in axis.parts)

    def before(self, stack: int) -> list[FitStage]:
        """What is fitted between the stack before and this one."""
        first = self._first(self.anatomy.stacks[stack].layers)
        start = 0 if stack == 0 else self._last(self.anatomy.stacks[stack - 1].layers) + 1
        return [[item] for item in self.anatomy.flow[start:first] if self._fitted(item)]

    @cached_property
    def tail(self) -> list[LinearOp | Norm]:
        """Linear modules and unfolded norms behind the layers."""
        last = self._last(self.anatomy.stacks[-1].layers)
        return [item for item in self.anatomy.flow[last + 1 :] if self._fitted(item)]

    def tail_stages(self) -> list[FitStage]:
        """What is fitted behind the layers.

        Last comes the norm in front of a head that shares its weight with the embedding, be it the last layer's own
        (post-norm): it is fitted to that head's logits.
        """
        stages: list[FitStage] = [[item] for item in self.tail if not (isinstance(item, LinearOp) and item.tied)]
        return stages + [[norm, head] for norm, head in self.before_tied]

    @cached_property
    def before_tied(self) -> list[tuple[Norm, LinearOp]]:
        """Norms that nothing but tied heads reads, each with its head."""
        heads = {step.module: step for step in self.anatomy.steps if step.tied}
        return [
            (norm, heads[norm.readers[0]])
            for norm in self.anatomy.norms
            if norm.readers and set(norm.readers) <= set(heads)
        ]

    def _fitted(self, item: LinearOp | Norm) -> bool:
        return not self.folds(item) if isinstance(item, Norm) else item.weight in self.anatomy.axes

    def folds(self, norm: Norm) -> bool:
        """Whether this norm has no scale of its own in the student."""
        return norm.space is not None and norm.folded and self.anatomy.rotatable(norm.space)

    def stages(self, layer: str) -> list[FitStage]:
        """What is fitted in a layer, in the order of the forward pass."""
        stages: list[FitStage] = []
        meeting: dict[Tap, FitStage] = {}
        for item in self._items(layer):
            behind = stream_tap(item)
            if isinstance(item, Norm):
                # A scale per channel of a head cannot be mapped; it is averaged.
                if item.space is not None and not self.folds(item):
                    stages.append([item])
            elif behind is not None:
                # Parallel branches meet the stream at one place: they are fitted together, once both can run.
                stage = meeting.setdefault(behind, [])
                if stage in stages and stage:
                    stages.remove(stage)
                stage.append(item)
                stages.append(stage)
            elif stages and self._alike(stages[-1][-1], item):
                stages[-1].append(item)
            else:
                stages.append([item])
        return stages

    def closing(self, layer: str) -> list[FitStage]:
        """A layer's last stages: what meets the residual stream last, and what is behind; empty where nothing does."""
        stages = self.stages(layer)
        met = [index for index, stage in enumerate(stages) if stream_tap(stage[0]) is not None]
        return stages[met[-1] :] if met else []

    def layer_spots(self, layer: str) -> list[Tap]:
        """What the teachers must show of a layer: outputs of inner writers, the residual behind its writers, norms."""
        spots: list[Tap] = []
        for item in self._items(layer):
            behind = stream_tap(item)
            if isinstance(item, Norm) and (item.space is None or self.folds(item)):
                continue
            spots.append(behind if behind is not None else (item.module, "out"))
        return list(dict.fromkeys(spots))

    def inner_spots(self, layer: str) -> list[Tap]:
        """Outputs of the linear modules that write a layer's inner spaces."""
        return [(i.module, "out") for i in self._items(layer) if isinstance(i, LinearOp) and stream_tap(i) is None]

    def checkpoints(self, layer: str) -> list[Tap]:
        """Where a layer's residual stream is seen."""
        found = [stream_tap(item) for item in self._items(layer)]
        return list(dict.fromkeys(spot for spot in found if spot is not None))

    def thin_spots(self, layer: str) -> list[Tap]:
        """What some tokens of are enough, to choose units by: what the readers of inner spaces read and write."""
        readers = [reader(self.anatomy, space) for space in self.spaces(layer)]
        return [(step.module, end) for step in readers if step is not None for end in ("in", "out")]

    def before_spots(self, stack: int) -> list[Tap]:
        """What the teachers must show before a stack."""
        return [(stage[0].module, "out") for stage in self.before(stack)]

    def tail_spots(self) -> list[Tap]:
        """What the teachers must show behind the layers."""
        spots: list[Tap] = [(item.module, "out") for item in [*self.tail, *(head for _, head in self.before_tied)]]
        readers = [reader(self.anatomy, space) for space in self.late_spaces]
        spots += [(step.module, "in") for step in readers if step is not None]
        return list(dict.fromkeys(spots))

    def _items(self, layer: str) -> list[LinearOp | Norm]:
        return [item for item in self.anatomy.flow if item.module.startswith(layer + ".")]

    def _inside(self, name: str) -> bool:
        return name.startswith(tuple(layer + "." for layer in self.layers))

    def _first(self, layers: Sequence[str]) -> int:
        inside = tuple(layer + "." for layer in layers)
        return next(i for i, item in enumerate(self.anatomy.flow) if item.module.startswith(inside))

    def _last(self, layers: Sequence[str]) -> int:
        inside = tuple(layer + "." for layer in layers)
        return max(i for i, item in enumerate(self.anatomy.flow) if item.module.startswith(inside))

    def _alike(self, before: LinearOp | Norm, step: LinearOp) -> bool:
        """Whether two linears read the same input and write the same inner space."""
        if not isinstance(before, LinearOp) or before.checkpoint is not None:
            return False
        same = before.writes == step.writes and before.reads == step.reads
        # Cross-attention: queries read the decoder's tokens, keys and values the encoder's.
        tokens = self.anatomy.tokens
        return same and step.writes not in self.streams and tokens.get(before.module) == tokens.get(step.module)
