"""Coordinates compared by the weights alone, without data.

Weights are compared as activations under white inputs: a unit's incoming weights, read in the student's coordinates,
have as inner products what its activations would have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, Kind, LinearOp, Role, Side, Space, map_key
from compressor.anatomy.queries import Maps, columns_of, outgoing, reader, writers
from compressor.fusion.features.base import HeadStatistics, SpaceStatistics
from compressor.fusion.teacher import FusionTeacher


class WeightFeatures:
    """Moments from the weights alone, as under white inputs in the student's coordinates.

    Args:
        sources: the teachers.
        maps: the student's maps of each teacher.
        anatomy: the student's anatomy.
    """

    def __init__(self, sources: Sequence[FusionTeacher], maps: Maps, anatomy: Anatomy) -> None:
        self.sources, self.maps, self.anatomy = sources, maps, anatomy

    def space(self, name: str) -> SpaceStatistics:
        role = Role.VALUE if self.anatomy.spaces[name].kind is Kind.ATTENTION else None
        incoming = self._pooled_incoming(name, role)
        step = reader(self.anatomy, name)
        # What no linear map reads (channels between convolutions) is known by how it is written.
        return _statistics(incoming, incoming if step is None else outgoing(self.sources, self.maps, step))

    def heads(self, name: str) -> HeadStatistics:
        step = reader(self.anatomy, name)
        assert step is not None

        def moments(role: Role) -> Tensor:
            incoming = self._pooled_incoming(name, role)
            return incoming @ incoming.T

        return HeadStatistics(
            outgoing(self.sources, self.maps, step),
            self.sources[0].space(name).head_dim,
            carry=lambda: moments(Role.VALUE),
            queries=lambda: moments(Role.QUERY),
            keys=lambda: moments(Role.KEY),
        )

    def expert(self, name: str, places: Sequence[Tensor], expert: int) -> SpaceStatistics:
        """Moments of one expert's own units.

        Args:
            name: of the units' space.
            places: per teacher, its expert for each of the student's.
            expert: the student's.
        """
        incoming, leaving = [], []
        for source, maps, place in zip(self.sources, self.maps, places, strict=True):
            came, left = [], []
            for parameter, dim, side in _touching(self.anatomy, name):
                tensor = source.tensor(parameter)
                assert tensor is not None
                matrix = tensor[int(place[expert])].movedim(dim - 1, 0)
                other = next(a for d, a in enumerate(self.anatomy.axes[parameter]) if d not in (0, dim))
                mapping = maps.get(other.parts[0].key or "")
                if mapping is not None:
                    matrix = matrix @ (mapping.pull if other.side is Side.READ else mapping.push)
                if side is Side.READ:
                    left.append(matrix)
                else:
                    parts = len(self.anatomy.axes[parameter][dim].parts)
                    came += list(matrix.chunk(parts))
            incoming.append(torch.cat(came, dim=1))
            leaving.append(torch.cat(left, dim=1))
        return _statistics(torch.cat(incoming), torch.cat(leaving))

    def _pooled_incoming(self, name: str, role: Role | None) -> Tensor:
        return torch.cat(self.incoming(name, role))

    def incoming(self, name: str, role: Role | None) -> list[Tensor]:
        """Per teacher, incoming weights and biases in the student's coordinates, one row per coordinate.

        Values count once for each query head that reads them.
        """
        parts = []
        for source, maps in zip(self.sources, self.maps, strict=True):
            rows_of: list[Tensor] = []
            key = map_key(source.own(name), role)
            for step in writers(self.anatomy, name):
                axis = source.anatomy.axes[source.own(step.weight)]
                written = next(one for one in axis if one.side is Side.WRITE)
                count = sum(1 for part in written.parts if part.key == key)
                for occurrence in range(count):
                    columns = columns_of(written, key, occurrence=occurrence)
                    weight = source.read_weight(step)[:, columns]
                    if (mapping := maps.get(self._read_key(step))) is not None:
                        weight = mapping.read(weight)
                    bias = source.tensor(f"{step.module}.bias")
                    rows_of += [weight.T] if bias is None else [weight.T, bias[columns, None]]
            if not rows_of:
                rows_of = self._convolved(source, name)
            parts.append(_per_query_head(torch.cat(rows_of, dim=1), source.space(name), role))
        return parts

    def _read_key(self, step: LinearOp) -> str:
        """The key of the map of what a module reads."""
        space = self.anatomy.spaces.get(step.reads or "")
        return map_key(step.reads or "", Role.OUTPUT if space is not None and space.kind is Kind.ATTENTION else None)

    def _convolved(self, source: FusionTeacher, name: str) -> list[Tensor]:
        """What writes a space by a convolution or a table: one row a coordinate."""
        found = []
        for parameter, dim, side in _touching(self.anatomy, name):
            tensor = source.tensor(parameter)
            if side is Side.WRITE and tensor is not None:
                found.append(tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1))
        return found


def _touching(anatomy: Anatomy, space: str) -> list[tuple[str, int, Side]]:
    return [
        (name, dim, axis.side)
        for name, axes in anatomy.axes.items()
        for dim, axis in enumerate(axes)
        if any(part.key == space for part in axis.parts)
    ]


def _statistics(incoming: Tensor, leaving: Tensor) -> SpaceStatistics:
    return SpaceStatistics(
        leaving,
        variance=lambda: incoming.square().sum(1),
        gram=lambda: incoming @ incoming.T,
        cross=lambda: incoming @ (incoming.T @ leaving),
    )


def _per_query_head(incoming: Tensor, space: Space, role: Role | None) -> Tensor:
    """Repeat a group's value rows for each of its query heads, since outputs are counted per query head."""
    if role is not Role.VALUE or space.heads == space.groups:
        return incoming
    per_group = space.heads // space.groups
    return incoming.reshape(space.groups, 1, space.head_dim, -1).expand(-1, per_group, -1, -1).reshape(space.size, -1)


def space_weight_gram(sources: Sequence[FusionTeacher], space: str) -> Tensor:
    """Joint moments of coordinates by what ties them to fixed axes: embeddings, positions, classes.

    Without any (an encoder behind convolutions) by all that touches the space in the first layer.
    """
    anatomy = sources[0].anatomy
    columns = []
    for name, axes in anatomy.axes.items():
        keyed = [dim for dim, axis in enumerate(axes) if not axis.fixed]
        if len(keyed) != 1 or len(axes) < 2 or any(part.key != space for part in axes[keyed[0]].parts):
            continue
        times = len(axes[keyed[0]].parts)
        parts = []
        for source in sources:
            tensor = source.tensor(name)
            assert tensor is not None
            moved = tensor.movedim(keyed[0], 0)
            parts.append(
                moved.reshape(times, source.space(space).size, -1).transpose(0, 1).reshape(moved.shape[0] // times, -1)
            )
        block = torch.cat(parts)
        columns.append(block / block.norm().clamp(min=1e-30))
    if not columns:
        vectors = [name for name, axes in anatomy.axes.items() if len(axes) == 1 and axes[0].parts[0].key == space]
        columns = [torch.cat([source.state[source.own(name)] for source in sources])[:, None] for name in vectors]
    features = torch.cat(columns, dim=1)
    return features @ features.T
