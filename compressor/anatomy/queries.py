"""Questions to an anatomy: who writes a space, who reads it, which columns hold what, where the residual is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from compressor.anatomy.hooks import Tap
from compressor.anatomy.spec import Anatomy, Axis, LinearOp, Norm, Role, Side, map_key
from compressor.anatomy.transform import Map

#: Per teacher, {map key: map}.
Maps = Sequence[Mapping[str, Map]]


class WeightedWeights(Protocol):
    """A model's canonical weights, and the model's share in the student."""

    @property
    def weight(self) -> float: ...

    def read_weight(self, step: LinearOp) -> Tensor:
        """The weight of a linear module, [in, out]."""


def writers(anatomy: Anatomy, space: str) -> list[LinearOp]:
    """The linear modules that write a space."""
    return [step for step in anatomy.steps if step.writes == space]


def reader(anatomy: Anatomy, space: str) -> LinearOp | None:
    """The linear module that reads a space, the first of several; None where no linear module does."""
    return next((step for step in anatomy.steps if step.reads == space), None)


def outgoing(sources: Sequence[WeightedWeights], maps: Maps, step: LinearOp) -> Tensor:
    """The reader's weights of all teachers, their targets transported: [Σ n_k, m].

    A reader of classes or other fixed outputs has nothing to transport.
    """
    parts = []
    for source, own in zip(sources, maps, strict=True):
        weight = source.read_weight(step)
        mapping = own.get(step.writes or "")
        parts.append(source.weight * weight if mapping is None else weight @ mapping.push)
    return torch.cat(parts)


def attention_columns(anatomy: Anatomy, space: str, role: Role) -> tuple[Tap, Tensor]:
    """Where a role's values are seen: a module's output and the columns of it."""
    key = map_key(space, role)
    step = next(step for step in writers(anatomy, space) if columns_of(write_axis(anatomy, step), key) is not None)
    columns = columns_of(write_axis(anatomy, step), key)
    assert columns is not None
    return (step.module, "out"), columns


def write_axis(anatomy: Anatomy, step: LinearOp) -> Axis:
    """The axis that a module writes."""
    if step.tied:
        return next(axis for axis in anatomy.axes[step.weight] if axis.fixed)
    return next(axis for axis in anatomy.axes[step.weight] if axis.side is Side.WRITE)


def columns_of(axis: Axis, key: str | None, *, occurrence: int = 0) -> Tensor | None:
    """The coordinates of an axis that the map `key` transports, head after head; None when there are none.

    Args:
        axis: of a parameter.
        key: of a map.
        occurrence: which of several parts with that key (gate and up of a fused projection).
    """
    found = [index for index, part in enumerate(axis.parts) if part.key == key]
    if len(found) <= occurrence:
        return None
    place = found[occurrence]
    sizes = [part.size // axis.interleave for part in axis.parts]
    stride, start = sum(sizes), sum(sizes[:place])
    heads = torch.arange(axis.interleave)[:, None] * stride
    return (heads + start + torch.arange(sizes[place])).flatten()


def place_columns(axis: Axis, index: int) -> Tensor:
    """The coordinates of the part at a place of an axis."""
    key = axis.parts[index].key
    before = sum(1 for part in axis.parts[:index] if part.key == key)
    found = columns_of(axis, key, occurrence=before)
    assert found is not None
    return found


def stream_tap(item: LinearOp | Norm) -> Tap | None:
    """Where the residual stream is seen right behind a writer."""
    return None if item.checkpoint is None else (item.checkpoint, "out" if item.checkpoint_is_output else "in")


def space_taps(anatomy: Anatomy, space: str) -> list[Tap]:
    """Where the values of a residual or embedding space are seen: entering its layers, and behind every writer.

    An embedding space has no layers: it is seen where it is read.
    """
    spots: list[Tap] = [(stack.layers[0], "in") for stack in anatomy.stacks if stack.residual == space]
    if not spots:
        return [(step.module, "in") for step in anatomy.steps if step.reads == space]
    for item in anatomy.flow:
        written = item.writes if isinstance(item, LinearOp) else item.space
        behind = stream_tap(item)
        if behind is not None and written == space:
            spots.append(behind)
    return list(dict.fromkeys(spots))


def stream_keys(anatomy: Anatomy) -> dict[str, str]:
    """The key of the residual stream's map behind every layer.

    Where the stream is cut into sites, each with a map of its own, the last one of the layer counts.
    """
    found: dict[str, str] = {}
    for stack in anatomy.stacks:
        key = stack.residual
        for layer in stack.layers:
            items = [item for item in anatomy.flow if item.module.startswith(layer + ".")]
            key = next((item.joins for item in reversed(items) if item.joins), key)
            found[layer] = key
    return found
