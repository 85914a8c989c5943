"""Questions to an anatomy: who writes a space, who reads it, which columns hold what, where the residual is seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, Map, Role, Side, Step, map_key
from compressor.errors import UnsupportedError
from compressor.fusion.sources import Source
from compressor.fusion.walk import Spot


def writers(anatomy: Anatomy, space: str) -> list[Step]:
    """The linear modules that write a space."""
    return [step for step in anatomy.steps if step.writes == space]


def reader(anatomy: Anatomy, space: str) -> Step:
    """The linear module that reads a space.

    Raises:
        UnsupportedError: none does, or several do.
    """
    found = [step for step in anatomy.steps if step.reads == space]
    if len(found) != 1:
        raise UnsupportedError(f"{space} is read by {len(found)} linear modules; fusion handles exactly one")
    return found[0]


def outgoing(sources: Sequence[Source], residual: Sequence[Map], step: Step) -> Tensor:
    """The reader's weights of all teachers, their targets transported: [Σ n_k, m].

    A reader of classes or other fixed outputs has nothing to transport.
    """
    parts = []
    for source, mapping in zip(sources, residual, strict=True):
        weight = source.read_weight(step)
        parts.append(weight @ mapping.push if step.writes == source.anatomy.residual.name else source.weight * weight)
    return torch.cat(parts)


def attention_slice(anatomy: Anatomy, space: str, role: Role) -> tuple[Spot, slice]:
    """Where a role's values are seen: a module's output and the columns of it.

    Raises:
        UnsupportedError: the role is fused and interleaved with others head by head.
    """
    for step in writers(anatomy, space):
        columns = find_columns(anatomy, step, map_key(space, role))
        if columns is not None:
            return (step.module, "out"), columns
    raise UnsupportedError(f"no module writes the {role.value} of {space}")


def find_columns(anatomy: Anatomy, step: Step, key: str | None) -> slice | None:
    """The output columns of a module that the map `key` transports; None when it writes none of them.

    Raises:
        UnsupportedError: they are interleaved with others head by head.
    """
    axis = next(axis for axis in anatomy.axes[f"{step.module}.weight"] if axis.side is Side.WRITE)
    start = 0
    for part in axis.parts:
        if part.key == key:
            if axis.interleave > 1:
                raise UnsupportedError(f"{step.module} interleaves its roles head by head; fusion cannot split it yet")
            return slice(start, start + part.size)
        start += part.size
    return None


def write_columns(anatomy: Anatomy, step: Step, key: str | None) -> slice:
    """As `find_columns`, for a key that the module is known to write."""
    found = find_columns(anatomy, step, key)
    return found if found is not None else slice(None)


def residual_spots(anatomy: Anatomy) -> list[Spot]:
    """Where the residual stream is seen: entering the layers, and behind every writer."""
    spots: list[Spot] = [(anatomy.layers[0], "in")]
    for step in anatomy.steps:
        if step.checkpoint is not None:
            spots.append((step.checkpoint, "out" if step.checkpoint_is_output else "in"))
    return list(dict.fromkeys(spots))
