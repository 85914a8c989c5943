"""Coordinates compared by the weights alone, without data.

Weights are compared as activations under white inputs: a unit's incoming weights, read in the student's coordinates,
have as inner products what its activations would have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.anatomy import Kind, Map, Role, Space, map_key
from compressor.fusion.moments import HeadStatistics, SpaceStatistics
from compressor.fusion.sources import Source
from compressor.fusion.structure import find_columns, outgoing, reader, writers


class WeightFeatures:
    """Moments from the weights alone, as under white inputs in the student's coordinates."""

    def __init__(self, sources: Sequence[Source], residual: Sequence[Map]) -> None:
        self.sources, self.residual = sources, residual

    def space(self, name: str) -> SpaceStatistics:
        step = reader(self.sources[0].anatomy, name)
        out = outgoing(self.sources, self.residual, step)
        role = Role.VALUE if self.sources[0].anatomy.spaces[name].kind is Kind.ATTENTION else None
        incoming = self._incoming(name, role)
        return SpaceStatistics(
            out,
            variance=lambda: incoming.square().sum(1),
            gram=lambda: incoming @ incoming.T,
            cross=lambda: incoming @ (incoming.T @ out),
        )

    def heads(self, name: str) -> HeadStatistics:
        def moments(role: Role) -> Tensor:
            incoming = self._incoming(name, role)
            return incoming @ incoming.T

        return HeadStatistics(
            outgoing(self.sources, self.residual, reader(self.sources[0].anatomy, name)),
            self.sources[0].anatomy.spaces[name].head_dim,
            carry=lambda: moments(Role.VALUE),
            queries=lambda: moments(Role.QUERY),
            keys=lambda: moments(Role.KEY),
        )

    def _incoming(self, name: str, role: Role | None) -> Tensor:
        """Incoming weights and biases in the student's coordinates, one row per coordinate (values per query head)."""
        parts = []
        for source, mapping in zip(self.sources, self.residual, strict=True):
            rows_of = []
            for step in writers(source.anatomy, name):
                columns = find_columns(source.anatomy, step, map_key(name, role))
                if columns is None:
                    continue
                weight = source.read_weight(step)[:, columns]
                if step.reads == source.anatomy.residual.name:
                    weight = mapping.pull.T @ weight
                bias = source.state.get(f"{step.module}.bias")
                rows_of += [weight.T] if bias is None else [weight.T, bias[columns, None]]
            parts.append(_per_query_head(torch.cat(rows_of, dim=1), source.anatomy.spaces[name], role))
        return torch.cat(parts)


def _per_query_head(incoming: Tensor, space: Space, role: Role | None) -> Tensor:
    """Repeat a group's value rows for each of its query heads, since outputs are counted per query head."""
    if role is not Role.VALUE or space.heads == space.groups:
        return incoming
    per_group = space.heads // space.groups
    return incoming.reshape(space.groups, 1, space.head_dim, -1).expand(-1, per_group, -1, -1).reshape(space.size, -1)


def residual_weight_gram(sources: Sequence[Source]) -> Tensor:
    """Joint moments of residual coordinates by what ties them to fixed axes: embeddings, positions, classes."""
    columns = []
    for name, axes in sources[0].anatomy.axes.items():
        keyed = [dim for dim, axis in enumerate(axes) if not axis.fixed]
        key = sources[0].anatomy.residual.name
        if len(keyed) != 1 or len(axes) < 2 or any(part.key != key for part in axes[keyed[0]].parts):
            continue
        parts = [
            source.state[name].movedim(keyed[0], 0).reshape(source.anatomy.residual.size, -1) for source in sources
        ]
        block = torch.cat(parts)
        columns.append(block / block.norm().clamp(min=1e-30))
    features = torch.cat(columns, dim=1)
    return features @ features.T
