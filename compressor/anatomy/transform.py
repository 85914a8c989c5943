"""Apply maps to weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from compressor.anatomy.axes import Axis, Side
from compressor.anatomy.spec import Anatomy
from compressor.utils.sparse import Entries, Matrix, carry, dense, picks


class Map:
    """A map from n teacher to m student coordinates; experts: [experts, n, m].

    Args:
        push: [n, m] for values z = pushᵀ x, and writers.
        pull: [n, m] for x ≈ pull z, and readers.
    """

    def __init__(self, push: Matrix, pull: Matrix) -> None:
        self._push, self._pull = push, pull

    @property
    def push(self) -> Tensor:
        """The dense matrix."""
        return dense(self._push)

    @property
    def pull(self) -> Tensor:
        """The dense matrix."""
        return dense(self._pull)

    @property
    def targets(self) -> int:
        """Student coordinates m."""
        return self._push.shape[-1]

    @property
    def experts(self) -> tuple[Map, ...]:
        """The experts' maps, or ()."""
        if not isinstance(self._push, Tensor) or self._push.dim() < 3:
            return ()
        return tuple(Map(push, pull) for push, pull in zip(self._push, self.pull, strict=True))

    def written(self, values: Tensor) -> Tensor:
        """pushᵀ w for writers [n, c] or [n], same precision."""
        return _carried(self._push, self.selection, values)

    def read(self, values: Tensor) -> Tensor:
        """pullᵀ w for readers [n, c] or [n], same precision."""
        return _carried(self._pull, self.drawn, values)

    def transport(self, values: Tensor) -> Tensor:
        """pushᵀ x for rows [T, n], same precision."""
        selection = self.selection
        if selection is None:
            return self._push.move(values) if isinstance(self._push, Entries) else values @ self.push.to(values)
        sources, targets = (index.to(values.device) for index in selection)
        moved = torch.zeros(len(values), self.targets, dtype=values.dtype, device=values.device)
        return moved.index_copy_(1, targets, values.index_select(1, sources))

    @cached_property
    def selection(self) -> tuple[Tensor, Tensor] | None:
        """(sources, targets) if push only selects, else None."""
        return picks(self._push)

    @cached_property
    def drawn(self) -> tuple[Tensor, Tensor] | None:
        """(sources, targets) if pull only selects, else None."""
        return picks(self._pull)

    @classmethod
    def permutation(cls, order: Tensor) -> Map:
        """Coordinate j is the teacher's order[..., j]."""
        matrix = torch.nn.functional.one_hot(order, order.shape[-1]).to(torch.float64).transpose(-1, -2)
        return cls(matrix, matrix)


def _carried(matrix: Matrix, selection: tuple[Tensor, Tensor] | None, values: Tensor) -> Tensor:
    if matrix.shape[-2] != values.shape[0]:
        raise ValueError(f"a map of {matrix.shape[-2]} coordinates does not fit an axis of {values.shape[0]}")
    if selection is None:
        return carry(matrix, values)
    moved = torch.zeros(matrix.shape[-1], *values.shape[1:], dtype=values.dtype, device=values.device)
    return moved.index_copy_(0, selection[1], values.index_select(0, selection[0]))


def transport_together(maps: Sequence[Map], values: Sequence[Tensor]) -> Tensor:
    """Σ_k push_kᵀ x_k for rows [T, n_k], same precision."""
    selections = [mapping.selection for mapping in maps]
    known = [selection for selection in selections if selection is not None]
    if len(known) == len(selections):
        targets, order = torch.cat([target for _, target in known]).sort()
        if targets.equal(torch.arange(maps[0].targets)):
            pairs = zip(values, known, strict=True)
            selected = [value.index_select(1, source.to(value.device)) for value, (source, _) in pairs]
            return torch.cat(selected, dim=1).index_select(1, order.to(values[0].device))
    # A teacher with an empty selection adds nothing.
    parts = [
        mapping.transport(value)
        for mapping, value, selection in zip(maps, values, selections, strict=True)
        if selection is None or len(selection[0])
    ] or [maps[0].transport(values[0])]
    return sum(parts[1:], start=parts[0])


def apply(
    maps: Mapping[str, Map],
    state: Mapping[str, Tensor],
    anatomy: Anatomy,
    names: Iterable[str] | None = None,
    shapes: Mapping[str, Sequence[Axis]] | None = None,
) -> dict[str, Tensor]:
    """Contract axes with their maps: writers with push, readers with pull.

    Args:
        maps: {key: map}; others stay.
        names: default all.
        shapes: the student's axes, for heads of fused projections.

    Returns:
        {parameter: float64 tensor}.
    """
    moved = {}
    for name in anatomy.axes if names is None else names:
        value = state[name].to(torch.float64)
        student_axes = (shapes or {}).get(name)
        for dim, axis in enumerate(anatomy.axes[name]):
            if not axis.fixed:
                heads = None if student_axes is None else student_axes[dim].interleave
                value = _contract(value, dim, axis, maps, heads)
        moved[name] = value
    return moved


def _contract(value: Tensor, dim: int, axis: Axis, maps: Mapping[str, Map], heads: int | None) -> Tensor:
    """Map one axis; `heads` if parts alternate."""
    if any(maps[part.key].experts for part in axis.parts if part.key is not None and part.key in maps):
        # Dimension 0 holds the experts, already in the student's order.
        by_expert = {key: mapping.experts for key, mapping in maps.items() if mapping.experts}
        return torch.stack(
            [
                _contract(matrix, dim - 1, axis, {key: experts[index] for key, experts in by_expert.items()}, heads)
                for index, matrix in enumerate(value)
            ]
        )
    front = value.movedim(dim, 0)
    columns = front.flatten(1) if front.dim() > 1 else front[:, None]
    pieces = []
    for piece, part in zip(_split(columns, axis), axis.parts, strict=True):
        mapping = maps.get(part.key) if part.key is not None else None
        if mapping is None:
            pieces.append(piece)
            continue
        pieces.append(mapping.written(piece) if axis.side is Side.WRITE else mapping.read(piece))
    joined = _join(pieces, axis, heads)
    # Not -1: a table may have no rows (no register tokens).
    return joined.reshape(len(joined), *front.shape[1:]).movedim(0, dim)


def _split(columns: Tensor, axis: Axis) -> list[Tensor]:
    """An axis's parts, contiguous and head-major."""
    sizes = [part.size for part in axis.parts]
    if axis.interleave == 1:
        return list(columns.split(sizes))
    heads = axis.interleave
    per_head = columns.reshape(heads, -1, columns.shape[1]).split([size // heads for size in sizes], dim=1)
    return [piece.reshape(-1, columns.shape[1]) for piece in per_head]


def _join(pieces: list[Tensor], axis: Axis, heads: int | None) -> Tensor:
    """The inverse of `_split`."""
    if axis.interleave == 1:
        return torch.cat(pieces)
    # Heads keep their size, so their number changes with the number of channels.
    heads = heads or axis.interleave * pieces[0].shape[0] // axis.parts[0].size
    per_head = [piece.reshape(heads, -1, piece.shape[1]) for piece in pieces]
    return torch.cat(per_head, dim=1).reshape(-1, pieces[0].shape[1])
