"""What coordinates are compared by: activations over calibration tokens, or the weights alone.

Both give the same second moments.  Weights are compared as activations under white inputs: a unit's incoming weights,
read in the student's coordinates, have as inner products what its activations would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, Kind, Map, Role, Side, Space, Step, map_key
from compressor.anatomy.trace import logits_of
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.moments import HeadStatistics, SpaceStatistics
from compressor.fusion.sources import Source
from compressor.fusion.statistics import Gram, rows, stacked
from compressor.fusion.walk import Spot, watching

#: Tokens from which maps of hidden units are chosen; more change little and cost N² each.
UNIT_TOKENS = 3072


class Features(Protocol):
    """How a space's coordinates are compared."""

    def space(self, name: str) -> SpaceStatistics:
        """Moments of what the space's readers see, and of the target that they serve."""

    def heads(self, name: str) -> HeadStatistics:
        """Moments of queries, keys and head outputs of an attention space."""


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


class Seen:
    """What all teachers showed at one place of the walk; moments that do not depend on the student are kept.

    Args:
        sources: the teachers.
        values: per teacher and batch, the watched tensors.
        masks: per batch, which tokens count.
    """

    def __init__(
        self, sources: Sequence[Source], values: Sequence[Sequence[dict[Spot, Tensor]]], masks: Sequence[Tensor | None]
    ) -> None:
        self.sources, self.values, self.masks = sources, values, masks
        self._grams: dict[tuple[tuple[Spot, tuple[int | None, int | None]], ...], Gram] = {}

    def rows(self, teacher: int, batch: int, spot: Spot) -> Tensor:
        """Token vectors [T, n_k] of one teacher at one spot."""
        return rows(self.values[teacher][batch][spot], self.masks[batch])

    @cached_property
    def stride(self) -> int:
        """Every how many tokens one is taken where about `UNIT_TOKENS` of them are enough."""
        first = next(iter(self.values[0][0].values()))
        return max(1, round(first[..., 0].numel() * len(self.values[0]) / UNIT_TOKENS))

    def some_rows(self, teacher: int, batch: int, spot: Spot) -> Tensor:
        """About `UNIT_TOKENS` token vectors over all batches, the same tokens for every teacher and spot."""
        return self.rows(teacher, batch, spot)[batch % self.stride :: self.stride]

    def variance(self, spot: Spot) -> Tensor:
        """Mean squares about the mean of all teachers' coordinates at one spot, [Σ n_k]."""
        sums: list[Tensor] = []
        count = 0
        for batch in range(len(self.masks)):
            values = stacked([self.some_rows(k, batch, spot) for k in range(len(self.sources))])
            sums.append(torch.stack([values.sum(0), values.square().sum(0)]).double())
            count += len(values)
        mean, square = torch.stack(sums).sum(0) / count
        return (square - mean**2).clamp(min=0)

    def gram(self, places: Sequence[tuple[Spot, slice]]) -> Gram:
        """Joint moments of all teachers' coordinates: per teacher a spot and the columns of it."""
        key = tuple((spot, (part.start, part.stop)) for spot, part in places)
        if key not in self._grams:
            found: Gram | None = None
            for batch in range(len(self.masks)):
                parts = stacked([self.some_rows(k, batch, spot)[:, part] for k, (spot, part) in enumerate(places)])
                found = found or Gram(parts.shape[1])
                found.add(parts)
            if found is None:
                raise UserError("there are no calibration samples to fuse from")
            self._grams[key] = found
        return self._grams[key]


class ActivationFeatures:
    """Moments over the calibration tokens, targets transported by one student's residual maps.

    Args:
        seen: what the teachers showed.
        residual: the student's residual map of each teacher.
    """

    def __init__(self, seen: Seen, residual: Sequence[Map]) -> None:
        self.seen, self.residual, self.sources, self.masks = seen, residual, seen.sources, seen.masks

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.seen.values[0][0].values())).dtype

    def values(self, teacher: int, batch: int, spot: Spot) -> Tensor:
        """Token vectors [T, n_k] of one teacher."""
        return self.seen.rows(teacher, batch, spot)

    def space(self, name: str) -> SpaceStatistics:
        step = reader(self.sources[0].anatomy, name)
        spot = (step.module, "in")
        places = [(spot, slice(None))] * len(self.sources)
        return SpaceStatistics(
            outgoing(self.sources, self.residual, step),
            variance=lambda: self.seen.variance(spot),
            gram=lambda: self.seen.gram(places).covariance(),
            cross=lambda: self._cross(step),
        )

    def _cross(self, step: Step) -> Tensor:
        """Covariance of what the reader reads with the transported target of what it writes, [N, m]."""
        sums: Tensor | None = None
        count, total_in, total_out = 0, 0.0, 0.0
        for batch in range(len(self.masks)):
            inputs = stacked([self.seen.some_rows(k, batch, (step.module, "in")) for k in range(len(self.sources))])
            target = self._moved(batch, (step.module, "out"), self.seen.some_rows, fixed=step.writes is None)
            product = (inputs.T @ target).double()
            sums = product if sums is None else sums + product
            total_in, total_out = total_in + inputs.sum(0).double(), total_out + target.sum(0).double()
            count += len(inputs)
        if sums is None:
            raise UserError("there are no calibration samples to fuse from")
        return sums / count - torch.outer(total_in, total_out) / count**2

    def heads(self, name: str) -> HeadStatistics:
        step = reader(self.sources[0].anatomy, name)
        inputs = [((step.module, "in"), slice(None))] * len(self.sources)
        places = {
            role: [attention_slice(source.anatomy, name, role) for source in self.sources]
            for role in (Role.QUERY, Role.KEY)
        }
        spaces = [source.anatomy.spaces[name] for source in self.sources]
        return HeadStatistics(
            outgoing(self.sources, self.residual, step),
            spaces[0].head_dim,
            carry=lambda: self.seen.gram(inputs).second_moment(),
            queries=lambda: self.seen.gram(places[Role.QUERY]).second_moment(),
            keys=lambda: self.seen.gram(places[Role.KEY]).second_moment(),
        )

    def transported(self, batch: int, spot: Spot, *, fixed: bool = False) -> Tensor:
        """Σ_k push_kᵀ x_k over the tokens of a batch, [T, m]; fixed outputs are averaged by α."""
        return self._moved(batch, spot, self.seen.rows, fixed=fixed)

    def _moved(self, batch: int, spot: Spot, rows_of: Callable[[int, int, Spot], Tensor], *, fixed: bool) -> Tensor:
        parts = []
        for k, (source, mapping) in enumerate(zip(self.sources, self.residual, strict=True)):
            value = rows_of(k, batch, spot)
            parts.append(source.weight * value if fixed else mapping.transport(value))
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


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


def _per_query_head(incoming: Tensor, space: Space, role: Role | None) -> Tensor:
    """Repeat a group's value rows for each of its query heads, since outputs are counted per query head."""
    if role is not Role.VALUE or space.heads == space.groups:
        return incoming
    per_group = space.heads // space.groups
    return incoming.reshape(space.groups, 1, space.head_dim, -1).expand(-1, per_group, -1, -1).reshape(space.size, -1)


def residual_spots(anatomy: Anatomy) -> list[Spot]:
    """Where the residual stream is seen: entering the layers, and behind every writer."""
    spots: list[Spot] = [(anatomy.layers[0], "in")]
    for step in anatomy.steps:
        if step.checkpoint is not None:
            spots.append((step.checkpoint, "out" if step.checkpoint_is_output else "in"))
    return list(dict.fromkeys(spots))


@torch.no_grad()
def residual_gram(sources: Sequence[Source], batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """Joint second moments of all teachers' residual coordinates over all depths, [Σ n_k, Σ n_k].

    Every depth counts alike: its moments are divided by the teachers' mean square there (weighted by α), which grows
    along the residual stream while the norms that read it take it out again.
    """
    spots = residual_spots(sources[0].anatomy)
    grams: dict[Spot, Gram] = {}
    for batch in batches:
        mask = batch.get("attention_mask")
        keep = None if mask is None or bool(mask.all()) else mask.bool()
        seen = [_see(source, spots, batch) for source in sources]
        for spot in spots:
            values = stacked([rows(one[spot], keep) for one in seen])
            grams.setdefault(spot, Gram(values.shape[1])).add(values)
    share = torch.cat([torch.full((s.anatomy.residual.size,), s.weight / s.anatomy.residual.size) for s in sources])
    moments = [gram.second_moment() for gram in grams.values()]
    return torch.stack([moment / (moment.diagonal() @ share.double()) for moment in moments]).mean(0)


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


def _see(source: Source, spots: Sequence[Spot], batch: dict[str, Tensor]) -> dict[Spot, Tensor]:
    with watching(source.model, spots) as seen:
        logits_of(source.model, {name: value for name, value in batch.items() if name != "labels"})
    return seen
