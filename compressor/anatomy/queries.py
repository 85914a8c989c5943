"""Look-ups: writers, readers, columns and residual taps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from compressor.anatomy.axes import Axis, Role, Side, map_key
from compressor.anatomy.hooks import Tap
from compressor.anatomy.spec import Anatomy, LinearOp, Norm
from compressor.anatomy.transform import Map

#: Per teacher, {map key: map}.
Maps = Sequence[Mapping[str, Map]]


class WeightedTeacher(Protocol):
    """A teacher's parameters, and its weight."""

    @property
    def weight(self) -> float: ...

    def read_weight(self, step: LinearOp) -> Tensor:
        """Weight [in, out]."""


def writers(anatomy: Anatomy, space: str) -> list[LinearOp]:
    """Linear writers of a space."""
    return [step for step in anatomy.steps if step.writes == space]


def reader(anatomy: Anatomy, space: str) -> LinearOp | None:
    """A space's first linear reader."""
    return next((step for step in anatomy.steps if step.reads == space), None)


def weight_reader(anatomy: Anatomy, space: str) -> LinearOp | None:
    """A space's first linear reader, also one whose module is never called (the output of `nn.MultiheadAttention`)."""
    called = reader(anatomy, space)
    if called is not None:
        return called
    for name, axes in anatomy.axes.items():
        reads = any(axis.side is Side.READ and axis.roles_in(space) is not None for axis in axes)
        written = [axis.parts[0].key for axis in axes if axis.side is Side.WRITE]
        if reads and len(axes) == 2 and len(written) == 1:
            return LinearOp(name.rpartition(".")[0], written[0], space, name)
    return None


def outgoing(teachers: Sequence[WeightedTeacher], maps: Maps, step: LinearOp) -> Tensor:
    """A reader's weights of all teachers [Σ n_k, m], outputs transported unless fixed."""
    parts = []
    for teacher, teacher_maps in zip(teachers, maps, strict=True):
        weight = teacher.read_weight(step)
        mapping = teacher_maps.get(step.writes or "")
        parts.append(teacher.weight * weight if mapping is None else weight @ mapping.push)
    return torch.cat(parts)


def attention_columns(anatomy: Anatomy, space: str, role: Role) -> tuple[Tap, Tensor]:
    """Tap and columns of a role."""
    key = map_key(space, role)
    step = next(step for step in writers(anatomy, space) if columns_of(write_axis(anatomy, step), key) is not None)
    columns = columns_of(write_axis(anatomy, step), key)
    assert columns is not None
    return (step.module, "out"), columns


def write_axis(anatomy: Anatomy, step: LinearOp) -> Axis:
    """The written axis."""
    if step.tied:
        return next(axis for axis in anatomy.axes[step.weight] if axis.fixed)
    return next(axis for axis in anatomy.axes[step.weight] if axis.side is Side.WRITE)


def columns_of(axis: Axis, key: str | None, *, occurrence: int = 0) -> Tensor | None:
    """Coordinates that map `key` transports, by head.

    `occurrence` counts parts with that key (fused gate and up).
    """
    places = [index for index, part in enumerate(axis.parts) if part.key == key]
    if len(places) <= occurrence:
        return None
    place = places[occurrence]
    sizes = [part.size // axis.interleave for part in axis.parts]
    stride, start = sum(sizes), sum(sizes[:place])
    heads = torch.arange(axis.interleave)[:, None] * stride
    return (heads + start + torch.arange(sizes[place])).flatten()


def place_columns(axis: Axis, index: int) -> Tensor:
    """Coordinates of the part at `index`."""
    key = axis.parts[index].key
    before = sum(1 for part in axis.parts[:index] if part.key == key)
    columns = columns_of(axis, key, occurrence=before)
    assert columns is not None
    return columns


def stream_tap(item: LinearOp | Norm) -> Tap | None:
    """The tap after a writer's addition."""
    return None if item.checkpoint is None else (item.checkpoint, "out" if item.checkpoint_is_output else "in")


def space_taps(anatomy: Anatomy, space: str) -> list[Tap]:
    """Taps of a residual space: layers' inputs and sums, or an embedding's readers."""
    taps: list[Tap] = [(stack.layers[0], "in") for stack in anatomy.stacks if stack.residual == space]
    if not taps:
        return [(step.module, "in") for step in anatomy.steps if step.reads == space]
    for item in anatomy.flow:
        written = item.writes if isinstance(item, LinearOp) else item.space
        tap = stream_tap(item)
        if tap is not None and written == space:
            taps.append(tap)
    return list(dict.fromkeys(taps))


def stream_keys(anatomy: Anatomy) -> dict[str, str]:
    """{layer: key of the stream after it}."""
    keys: dict[str, str] = {}
    for stack in anatomy.stacks:
        key = stack.residual
        for layer in stack.layers:
            items = [item for item in anatomy.flow if item.module.startswith(layer + ".")]
            key = next((item.joins for item in reversed(items) if item.joins), key)
            keys[layer] = key
    return keys
