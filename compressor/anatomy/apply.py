"""One function applies maps to weights: permutations, transport, slicing and principal components alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        chosen = self._selection
        if chosen is None:
            return values @ self.push.to(values)
        moved = torch.zeros(len(values), self.push.shape[1], dtype=values.dtype, device=values.device)
        moved[:, chosen[1]] = values[:, chosen[0]]
        return moved

    @cached_property
    def _selection(self) -> tuple[Tensor, Tensor] | None:
        """(sources, targets) of a map that only picks coordinates; picking is quicker than multiplying."""
        entries = self.push.nonzero()
        columns = entries[:, 1]
        picks = len(columns) == len(columns.unique()) and bool((self.push[entries[:, 0], columns] == 1).all())
        return (entries[:, 0], columns) if picks else None

    @classmethod
    def permutation(cls, order: Tensor) -> Map:
        """The student's coordinate j is the teacher's coordinate order[..., j]."""
        matrix = torch.nn.functional.one_hot(order, order.shape[-1]).to(torch.float64).transpose(-1, -2)
        return cls(matrix, matrix)


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
        if mapping is not None:
            matrix = mapping.push if axis.side is Side.WRITE else mapping.pull
            pieces.append(matrix.to(piece).T @ piece)
        else:
            pieces.append(piece)
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
