"""One function applies maps to weights: permutations, transport, slicing and principal components alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compressor.anatomy.axes import Anatomy, Axis, Side


@dataclass(frozen=True, eq=False)
class Map:
    """How the n coordinates of a teacher's space go to the student's m.

    Attributes:
        push: [n, m]; transports values: z = pushᵀ x.  Applied to writers.
        pull: [n, m]; reconstructs the teacher's values from the student's: x ≈ pull z.  Applied to readers.

    For units that every expert has for itself both are [experts, n, m], in the order of the student's experts.
    """

    push: Tensor
    pull: Tensor

    def transport(self, values: Tensor) -> Tensor:
        """pushᵀ x for row vectors x [T, n], in their precision: [T, m]."""
        chosen = self.selection
        if chosen is None:
            return values @ self.push.to(values)
        moved = torch.zeros(len(values), self.push.shape[1], dtype=values.dtype, device=values.device)
        return moved.index_copy_(1, chosen[1], values.index_select(1, chosen[0]))

    @cached_property
    def selection(self) -> tuple[Tensor, Tensor] | None:
        """(sources, targets) of a push that only picks coordinates; picking is quicker than multiplying."""
        return _picks(self.push)

    @cached_property
    def drawn(self) -> tuple[Tensor, Tensor] | None:
        """(sources, targets) of a pull that only picks coordinates."""
        return _picks(self.pull)

    @classmethod
    def permutation(cls, order: Tensor) -> Map:
        """The student's coordinate j is the teacher's coordinate order[..., j]."""
        matrix = torch.nn.functional.one_hot(order, order.shape[-1]).to(torch.float64).transpose(-1, -2)
        return cls(matrix, matrix)


def _picks(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """(rows, columns) of the ones in a matrix [n, m] without other entries and with one a column at most; else None."""
    entries = matrix.nonzero()
    columns = entries[:, 1]
    picks = len(columns) == len(columns.unique()) and bool((matrix[entries[:, 0], columns] == 1).all())
    return (entries[:, 0], columns) if picks else None


def transport_together(maps: Sequence[Map], values: Sequence[Tensor]) -> Tensor:
    """Σ_k push_kᵀ x_k for the row vectors of several teachers [T, n_k], in their precision: [T, m].

    Where the teachers' coordinates are only picked, each of the student's from one of them, nothing is added up.
    """
    chosen = [mapping.selection for mapping in maps]
    if all(own is not None for own in chosen):
        picks = [own for own in chosen if own is not None]
        targets, order = torch.cat([own[1] for own in picks]).sort()
        if targets.equal(torch.arange(maps[0].push.shape[1])):
            found = [value.index_select(1, own[0]) for value, own in zip(values, picks, strict=True)]
            return torch.cat(found, dim=1).index_select(1, order)
    # A teacher that has no part in the coordinates (an empty selection) adds nothing.
    parts = [
        mapping.transport(value)
        for mapping, value, own in zip(maps, values, chosen, strict=True)
        if own is None or len(own[0])
    ] or [maps[0].transport(values[0])]
    return sum(parts[1:], start=parts[0])


def apply(
    maps: Mapping[str, Map], state: Mapping[str, Tensor], anatomy: Anatomy, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Contract every axis of every parameter with its map: writers with push, readers with pull.

    Args:
        maps: {map key: map}; a key that is absent leaves its coordinates as they are.
        state: {parameter name: tensor} of one teacher.
        anatomy: the anatomy of that teacher.
        names: the parameters wanted; all of them if omitted.

    Returns:
        {parameter name: tensor} in float64, in the student's shapes.
    """
    moved = {}
    for name in anatomy.axes if names is None else names:
        value = state[name].to(torch.float64)
        for dim, axis in enumerate(anatomy.axes[name]):
            if not axis.fixed:
                value = _contract(value, dim, axis, maps)
        moved[name] = value
    return moved


def _contract(value: Tensor, dim: int, axis: Axis, maps: Mapping[str, Map]) -> Tensor:
    """Apply the maps of one axis to dimension `dim` of `value`."""
    if any(part.key in maps and maps[part.key].push.dim() == 3 for part in axis.parts if part.key is not None):
        # Dimension 0 holds the experts, already in the student's order.
        each = []
        for expert, matrix in enumerate(value):
            own = {key: Map(one.push[expert], one.pull[expert]) for key, one in maps.items() if one.push.dim() == 3}
            each.append(_contract(matrix, dim - 1, axis, own))
        return torch.stack(each)
    front = value.movedim(dim, 0)
    rest = front.shape[1:]
    columns = front.reshape(front.shape[0], -1)
    pieces = []
    for piece, part in zip(_split(columns, axis), axis.parts, strict=True):
        mapping = maps.get(part.key) if part.key is not None else None
        if mapping is None:
            pieces.append(piece)
            continue
        written = axis.side is Side.WRITE
        matrix, picked = (mapping.push, mapping.selection) if written else (mapping.pull, mapping.drawn)
        if picked is None:
            pieces.append(matrix.to(piece).T @ piece)
        else:
            moved = torch.zeros(matrix.shape[1], piece.shape[1], dtype=piece.dtype, device=piece.device)
            pieces.append(moved.index_copy_(0, picked[1], piece.index_select(0, picked[0])))
    return _join(pieces, axis).reshape(-1, *rest).movedim(0, dim)


def _split(columns: Tensor, axis: Axis) -> list[Tensor]:
    """Take an axis (first dimension of `columns`) apart into its parts, each contiguous and head-major."""
    sizes = [part.size for part in axis.parts]
    if axis.interleave == 1:
        return list(columns.split(sizes))
    heads = axis.interleave
    per_head = columns.reshape(heads, -1, columns.shape[1]).split([size // heads for size in sizes], dim=1)
    return [piece.reshape(-1, columns.shape[1]) for piece in per_head]


def _join(pieces: list[Tensor], axis: Axis) -> Tensor:
    """The inverse of `_split`, for pieces whose sizes may have changed."""
    if axis.interleave == 1:
        return torch.cat(pieces)
    # A map keeps the channels of a head together, so the number of heads follows from the change of size.
    heads = axis.interleave * pieces[0].shape[0] // axis.parts[0].size
    per_head = [piece.reshape(heads, -1, piece.shape[1]) for piece in pieces]
    return torch.cat(per_head, dim=1).reshape(-1, pieces[0].shape[1])
