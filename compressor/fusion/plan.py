"""The build plan: pieces of an anatomy and their stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from compressor.anatomy import Anatomy, Kind, LinearOp, Norm
from compressor.anatomy.hooks import Tap
from compressor.anatomy.queries import reader, stream_tap


@dataclass(frozen=True)
class LinearStage:
    """Linear modules with one input and one inner output space, or one outside the layers."""

    ops: tuple[LinearOp, ...]


@dataclass(frozen=True)
class ResidualWriteStage:
    """Linear modules that join the stream together, as parallel branches do.

    Attributes:
        tap: the stream after the sum.
    """

    ops: tuple[LinearOp, ...]
    tap: Tap

    @property
    def stream_key(self) -> str | None:
        """The stream's map key."""
        return self.ops[0].joins or self.ops[0].writes


@dataclass(frozen=True)
class NormStage:
    """One norm that keeps its scale."""

    norm: Norm
    tap: Tap | None

    @property
    def stream_key(self) -> str | None:
        """The stream's map key."""
        return self.norm.joins or self.norm.space


@dataclass(frozen=True)
class TiedHeadStage:
    """A tied head; the norm before it is fitted."""

    norm: Norm
    head: LinearOp


#: A stage whose output may join the residual stream.
JoiningStage = ResidualWriteStage | NormStage
#: Modules that are fitted together.
FitStage = LinearStage | ResidualWriteStage | NormStage | TiedHeadStage


@dataclass(frozen=True)
class LayerPlan:
    """One layer of the student.

    Attributes:
        spaces: experts before their units.
        taps: inner outputs, norms, and the stream after its writers.
        stream_taps: the stream after its writers.
        thin_taps: inputs and outputs of inner readers; some tokens suffice to choose units.
    """

    parameters: list[str]
    spaces: list[str]
    stages: list[FitStage]
    taps: list[Tap]
    inner_taps: list[Tap]
    stream_taps: list[Tap]
    thin_taps: list[Tap]

    @cached_property
    def closing(self) -> tuple[JoiningStage, list[FitStage]] | None:
        """The last stage that joins the stream, and those from it on."""
        for index in reversed(range(len(self.stages))):
            stage = self.stages[index]
            if isinstance(stage, (ResidualWriteStage, NormStage)) and stage.tap is not None:
                return stage, self.stages[index:]
        return None


class BuildPlan:
    """The pieces of a student in build order."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.layers = anatomy.layers
        self._streams = {space.name for space in anatomy.residuals}
        self._wide = wide_spaces(anatomy)

    @cached_property
    def layer_plans(self) -> dict[str, LayerPlan]:
        """By layer path."""
        return {layer: self._layer_plan(layer) for layer in self.layers}

    @cached_property
    def outside_parameters(self) -> list[str]:
        """Parameters of no layer."""
        return [name for name in self.anatomy.axes if not self._inside(name)]

    @cached_property
    def early_parameters(self) -> list[str]:
        """Those before the layers."""
        later = {*self.late_parameters, *(name for k in range(1, len(self.anatomy.stacks)) for name in self.between(k))}
        return [name for name in self.outside_parameters if name not in later]

    def between(self, stack: int) -> list[str]:
        """Those between the previous stack and this."""
        before, after = self.anatomy.stacks[stack - 1].layers, self.anatomy.stacks[stack].layers
        modules = {item.module for item in self.anatomy.flow[self._last(before) + 1 : self._first(after)]}
        return [n for n in self.outside_parameters if n.rpartition(".")[0] in modules and n not in self.late_parameters]

    @cached_property
    def late_parameters(self) -> list[str]:
        """Those after the layers."""
        modules = {item.module for item in self.anatomy.flow[self._last(self.anatomy.stacks[-1].layers) + 1 :]}
        return [
            name
            for name in self.outside_parameters
            if name.rpartition(".")[0] in modules or self._touches(name, self.late_spaces)
        ]

    @cached_property
    def outside_spaces(self) -> list[str]:
        """Hidden spaces of no layer."""
        return [name for name in self.anatomy.spaces if name not in self._wide and not self._inside(name)]

    @cached_property
    def early_spaces(self) -> list[str]:
        """Those between convolutions before the layers."""
        tail = {item.module for item in self.tail}
        readers = {name: reader(self.anatomy, name) for name in self.outside_spaces}
        return [name for name, op in readers.items() if op is None or op.module not in tail]

    @cached_property
    def late_spaces(self) -> list[str]:
        return [name for name in self.outside_spaces if name not in self.early_spaces]

    def stages_before(self, stack: int) -> list[FitStage]:
        """Stages since the previous stack."""
        first = self._first(self.anatomy.stacks[stack].layers)
        start = 0 if stack == 0 else self._last(self.anatomy.stacks[stack - 1].layers) + 1
        return [_single_stage(item) for item in self.anatomy.flow[start:first] if self._fitted(item)]

    def taps_before(self, stack: int) -> list[Tap]:
        """The teachers' outputs before a stack."""
        return [(_stage_items(stage)[0].module, "out") for stage in self.stages_before(stack)]

    @cached_property
    def tail(self) -> list[LinearOp | Norm]:
        """Fitted modules after the layers."""
        last = self._last(self.anatomy.stacks[-1].layers)
        return [item for item in self.anatomy.flow[last + 1 :] if self._fitted(item)]

    @cached_property
    def tail_stages(self) -> list[FitStage]:
        """Stages after the layers, tied heads last."""
        stages = [_single_stage(item) for item in self.tail if not (isinstance(item, LinearOp) and item.tied)]
        return [*stages, *self.tied_heads]

    @cached_property
    def tied_heads(self) -> list[TiedHeadStage]:
        """Tied heads with their own norm."""
        heads = {op.module: op for op in self.anatomy.steps if op.tied}
        return [
            TiedHeadStage(norm, heads[norm.readers[0]])
            for norm in self.anatomy.norms
            if norm.readers and set(norm.readers) <= set(heads)
        ]

    @cached_property
    def tail_taps(self) -> list[Tap]:
        """The teachers' outputs after the layers."""
        taps: list[Tap] = [(item.module, "out") for item in [*self.tail, *(stage.head for stage in self.tied_heads)]]
        readers = [reader(self.anatomy, space) for space in self.late_spaces]
        taps += [(op.module, "in") for op in readers if op is not None]
        return list(dict.fromkeys(taps))

    def _layer_plan(self, layer: str) -> LayerPlan:
        items = [item for item in self.anatomy.flow if item.module.startswith(layer + ".")]
        spaces = [name for name in self.anatomy.spaces if name.startswith(layer + ".") and name not in self._wide]
        spaces.sort(key=lambda name: self.anatomy.spaces[name].kind is not Kind.EXPERTS)
        readers = [reader(self.anatomy, space) for space in spaces]
        stream_taps = [tap for tap in map(stream_tap, items) if tap is not None]
        return LayerPlan(
            parameters=[name for name in self.anatomy.axes if name.startswith(layer + ".")],
            spaces=spaces,
            stages=self._layer_stages(items),
            taps=self._layer_taps(items),
            inner_taps=[(op.module, "out") for op in items if isinstance(op, LinearOp) and stream_tap(op) is None],
            stream_taps=list(dict.fromkeys(stream_taps)),
            thin_taps=[(op.module, end) for op in readers if op is not None for end in ("in", "out")],
        )

    def _layer_stages(self, items: Sequence[LinearOp | Norm]) -> list[FitStage]:
        groups: list[list[LinearOp | Norm]] = []
        joining: dict[Tap, list[LinearOp | Norm]] = {}
        for item in items:
            tap = stream_tap(item)
            if isinstance(item, Norm):
                # A scale per channel of a head cannot be mapped: it is averaged.
                if item.space is not None and not is_folded(self.anatomy, item):
                    groups.append([item])
            elif tap is not None:
                # Parallel branches are fitted together, once both can run.
                group = joining.setdefault(tap, [])
                if group in groups and group:
                    groups.remove(group)
                group.append(item)
                groups.append(group)
            elif groups and self._alike(groups[-1][-1], item):
                groups[-1].append(item)
            else:
                groups.append([item])
        return [_stage_of(group) for group in groups]

    def _layer_taps(self, items: Sequence[LinearOp | Norm]) -> list[Tap]:
        taps: list[Tap] = []
        for item in items:
            if isinstance(item, Norm) and (item.space is None or is_folded(self.anatomy, item)):
                continue
            taps.append(stream_tap(item) or (item.module, "out"))
        return list(dict.fromkeys(taps))

    def _touches(self, parameter: str, spaces: Sequence[str]) -> bool:
        """Whether a parameter has an axis in these spaces."""
        return any(part.key in spaces for axis in self.anatomy.axes[parameter] for part in axis.parts)

    def _fitted(self, item: LinearOp | Norm) -> bool:
        if isinstance(item, Norm):
            return item.space is not None and not is_folded(self.anatomy, item)
        return item.weight in self.anatomy.axes

    def _inside(self, name: str) -> bool:
        return name.startswith(tuple(layer + "." for layer in self.layers))

    def _first(self, layers: Sequence[str]) -> int:
        inside = tuple(layer + "." for layer in layers)
        return next(i for i, item in enumerate(self.anatomy.flow) if item.module.startswith(inside))

    def _last(self, layers: Sequence[str]) -> int:
        inside = tuple(layer + "." for layer in layers)
        return max(i for i, item in enumerate(self.anatomy.flow) if item.module.startswith(inside))

    def _alike(self, previous: LinearOp | Norm, op: LinearOp) -> bool:
        """Whether two modules share input and inner output space."""
        if not isinstance(previous, LinearOp) or previous.checkpoint is not None:
            return False
        if op.source is None or op.source != (previous.source or previous.module):
            return False
        same = previous.writes == op.writes and previous.reads == op.reads
        # Cross-attention: queries read the decoder's tokens, keys and values the encoder's.
        tokens = self.anatomy.tokens
        return same and op.writes not in self._streams and tokens.get(previous.module) == tokens.get(op.module)


def wide_spaces(anatomy: Anatomy) -> list[str]:
    """Residual and embedding spaces, mapped before the layers."""
    return [space.name for space in anatomy.spaces.values() if space.kind in (Kind.RESIDUAL, Kind.EMBEDDING)]


def is_folded(anatomy: Anatomy, norm: Norm) -> bool:
    """Whether a norm has no scale."""
    return norm.space is not None and norm.folded and anatomy.rotatable(norm.space)


def _stage_of(group: Sequence[LinearOp | Norm]) -> FitStage:
    if len(group) == 1:
        return _single_stage(group[0])
    ops = tuple(item for item in group if isinstance(item, LinearOp))
    tap = stream_tap(ops[0])
    return LinearStage(ops) if tap is None else ResidualWriteStage(ops, tap)


def _single_stage(item: LinearOp | Norm) -> FitStage:
    tap = stream_tap(item)
    if isinstance(item, Norm):
        return NormStage(item, tap)
    return LinearStage((item,)) if tap is None else ResidualWriteStage((item,), tap)


def _stage_items(stage: FitStage) -> tuple[LinearOp | Norm, ...]:
    return stage.ops if isinstance(stage, (LinearStage, ResidualWriteStage)) else (stage.norm,)
