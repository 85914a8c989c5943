"""Compare coordinates by weights alone, without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, Kind, LinearOp, Map, Role, Side, Space, map_key
from compressor.anatomy.queries import Maps, columns_of, outgoing, reader, weight_reader, writers
from compressor.fusion.features.base import HeadStatistics, SpaceStatistics
from compressor.fusion.teacher import FusionTeacher


class WeightFeatures:
    """Moments of the weights, as of activations under white inputs."""

    def __init__(self, teachers: Sequence[FusionTeacher], maps: Maps, anatomy: Anatomy) -> None:
        self.teachers, self.maps, self.anatomy = teachers, maps, anatomy

    def space(self, name: str) -> SpaceStatistics:
        role = Role.VALUE if self.anatomy.spaces[name].kind is Kind.ATTENTION else None
        incoming = torch.cat(self.incoming(name, role))
        op = reader(self.anatomy, name)
        # Spaces without linear readers (between convolutions) are compared by their writers.
        return _statistics(incoming, incoming if op is None else outgoing(self.teachers, self.maps, op))

    def heads(self, name: str) -> HeadStatistics:
        op = weight_reader(self.anatomy, name)
        assert op is not None

        def moments(role: Role) -> Tensor:
            incoming = torch.cat(self.incoming(name, role))
            return incoming @ incoming.T

        return HeadStatistics(
            outgoing(self.teachers, self.maps, op),
            self.teachers[0].space(name).head_dim,
            outputs=lambda: moments(Role.VALUE),
            queries=lambda: moments(Role.QUERY),
            keys=lambda: moments(Role.KEY),
        )

    def expert(self, name: str, places: Sequence[Tensor], expert: int) -> SpaceStatistics:
        """Moments of one student's expert, of the teachers' experts `places`."""
        pairs = [
            self._expert_weights(name, teacher, maps, int(place[expert]))
            for teacher, maps, place in zip(self.teachers, self.maps, places, strict=True)
        ]
        return _statistics(torch.cat([incoming for incoming, _ in pairs]), torch.cat([leaving for _, leaving in pairs]))

    def incoming(self, name: str, role: Role | None) -> list[Tensor]:
        """Incoming weights and biases per teacher, a row per coordinate."""
        parts = []
        for teacher, maps in zip(self.teachers, self.maps, strict=True):
            blocks: list[Tensor] = []
            key = map_key(teacher.local_name(name), role)
            for op in writers(self.anatomy, name):
                axes = teacher.anatomy.axes[teacher.local_name(op.weight)]
                written = next(axis for axis in axes if axis.side is Side.WRITE)
                count = sum(1 for part in written.parts if part.key == key)
                for occurrence in range(count):
                    columns = columns_of(written, key, occurrence=occurrence)
                    weight = teacher.read_weight(op)[:, columns]
                    if (mapping := maps.get(self._read_key(op))) is not None:
                        # Neighbours side by side (merged patches) are read one by one.
                        size = teacher.anatomy.spaces[teacher.local_name(op.reads or "")].size
                        weight = torch.cat([mapping.read(part) for part in weight.split(size)])
                    bias = teacher.tensor(f"{op.module}.bias")
                    blocks += [weight.T] if bias is None else [weight.T, bias[columns, None]]
            if not blocks:
                blocks = self._unmapped_writers(teacher, name, role)
            parts.append(_per_query_head(torch.cat(blocks, dim=1), teacher.space(name), role))
        return parts

    def _expert_weights(
        self, name: str, teacher: FusionTeacher, maps: Mapping[str, Map], expert: int
    ) -> tuple[Tensor, Tensor]:
        """Incoming and outgoing weights of one expert."""
        incoming, leaving = [], []
        for parameter, dim, side in _axes_of(self.anatomy, name):
            tensor = teacher.tensor(parameter)
            assert tensor is not None
            matrix = tensor[expert].movedim(dim - 1, 0)
            other = next(a for d, a in enumerate(self.anatomy.axes[parameter]) if d not in (0, dim))
            mapping = maps.get(other.parts[0].key or "")
            if mapping is not None:
                matrix = matrix @ (mapping.pull if other.side is Side.READ else mapping.push)
            if side is Side.READ:
                leaving.append(matrix)
            else:
                incoming += list(matrix.chunk(len(self.anatomy.axes[parameter][dim].parts)))
        return torch.cat(incoming, dim=1), torch.cat(leaving, dim=1)

    def _read_key(self, op: LinearOp) -> str:
        """The map key of a module's input."""
        space = self.anatomy.spaces.get(op.reads or "")
        return map_key(op.reads or "", Role.OUTPUT if space is not None and space.kind is Kind.ATTENTION else None)

    def _unmapped_writers(self, teacher: FusionTeacher, name: str, role: Role | None) -> list[Tensor]:
        """Convolutions, tables and fused projections that write a space, by coordinate."""
        blocks = []
        for parameter, dim, side in _axes_of(self.anatomy, map_key(name, role)):
            tensor = teacher.tensor(parameter)
            if side is Side.WRITE and tensor is not None:
                axis = teacher.anatomy.axes[teacher.local_name(parameter)][dim]
                rows = tensor.movedim(dim, 0)
                for place in range(sum(part.key == map_key(teacher.local_name(name), role) for part in axis.parts)):
                    columns = columns_of(axis, map_key(teacher.local_name(name), role), occurrence=place)
                    blocks.append(rows[columns].flatten(1) if rows.dim() > 1 else rows[columns, None])
        return blocks


def space_weight_gram(teachers: Sequence[FusionTeacher], space: str) -> Tensor:
    """Joint moments by weights to fixed axes (embeddings, classes); if none, by vectors."""
    anatomy = teachers[0].anatomy
    blocks = []
    for name, axes in anatomy.axes.items():
        free = [dim for dim, axis in enumerate(axes) if not axis.fixed]
        if len(free) != 1 or len(axes) < 2 or any(part.key != space for part in axes[free[0]].parts):
            continue
        times = len(axes[free[0]].parts)
        parts = []
        for teacher in teachers:
            tensor = teacher.tensor(name)
            assert tensor is not None
            rows = tensor.movedim(free[0], 0)
            parts.append(
                rows.reshape(times, teacher.space(space).size, -1).transpose(0, 1).reshape(rows.shape[0] // times, -1)
            )
        block = torch.cat(parts)
        blocks.append(block / block.norm().clamp(min=1e-30))
    if not blocks:
        vectors = [name for name, axes in anatomy.axes.items() if len(axes) == 1 and axes[0].parts[0].key == space]
        blocks = [torch.cat([t.state[t.local_name(name)] for t in teachers])[:, None] for name in vectors]
    features = torch.cat(blocks, dim=1)
    return features @ features.T


def _axes_of(anatomy: Anatomy, space: str) -> list[tuple[str, int, Side]]:
    """Axes in a space: (parameter, dimension, side)."""
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
    """Repeat value rows for each query head."""
    if role is not Role.VALUE or space.heads == space.groups:
        return incoming
    per_group = space.heads // space.groups
    return incoming.reshape(space.groups, 1, space.head_dim, -1).expand(-1, per_group, -1, -1).reshape(space.size, -1)
