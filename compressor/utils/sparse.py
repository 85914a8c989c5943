"""Matrices stored by entries, or computed at each access.

A dense map between 4,096 hidden units takes 134 MB in float64; a model has two dozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Entries:
    """A matrix [n, m] by its non-zero entries; results equal the dense ones bit for bit.

    Attributes:
        rows, columns: places, row by row, [e].
        values: float64 [e].
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, matrix: Tensor) -> Entries | None:
        """Entries of a matrix [n, m]; None if more than n + m (a hard plan has fewer)."""
        if int(matrix.count_nonzero()) > sum(matrix.shape):
            return None
        rows, columns = matrix.nonzero(as_tuple=True)
        return cls(rows, columns, matrix[rows, columns], (matrix.shape[0], matrix.shape[1]))

    @cached_property
    def one_a_row(self) -> bool:
        return len(self.rows.unique()) == len(self.rows)

    @cached_property
    def one_a_column(self) -> bool:
        return len(self.columns.unique()) == len(self.columns)

    def dense(self) -> Tensor:
        matrix = torch.zeros(self.shape, dtype=self.values.dtype)
        matrix[self.rows, self.columns] = self.values
        return matrix

    def sums(self, dim: int) -> Tensor:
        """See `sums`."""
        unique, places = (self.one_a_column, self.columns) if dim == 0 else (self.one_a_row, self.rows)
        if not unique:
            return self.dense().sum(dim)
        totals = torch.zeros(self.shape[1 - dim], dtype=self.values.dtype)
        totals[places] = self.values
        return totals

    def carry(self, values: Tensor) -> Tensor:
        """See `carry`."""
        if not self.one_a_column:
            return self.dense().to(values).T @ values
        moved = torch.zeros(self.shape[1], *values.shape[1:], dtype=values.dtype, device=values.device)
        times = self.values.to(values).reshape(-1, *[1] * (values.dim() - 1))
        return moved.index_copy_(0, self.columns, values.index_select(0, self.rows).mul_(times))

    def move(self, values: Tensor) -> Tensor:
        """Row vectors [T, n] times the matrix, in their precision: [T, m]."""
        if not self.one_a_column:
            return values @ self.dense().to(values)
        moved = torch.zeros(len(values), self.shape[1], dtype=values.dtype, device=values.device)
        rows, columns = self.rows.to(values.device), self.columns.to(values.device)
        return moved.index_copy_(1, columns, values.index_select(1, rows).mul_(self.values.to(values)))


@dataclass(frozen=True, eq=False)
class Deferred:
    """A matrix [n, m] that `make` computes at each access."""

    shape: tuple[int, int]
    make: Callable[[], Tensor]

    def dense(self) -> Tensor:
        return self.make()


#: A dense or other matrix; a tensor may have leading dimensions.
Matrix = Tensor | Entries | Deferred


def dense(matrix: Matrix) -> Tensor:
    """The matrix as a tensor."""
    return matrix if isinstance(matrix, Tensor) else matrix.dense()


def carry(matrix: Matrix, values: Tensor) -> Tensor:
    """Transpose of a matrix [n, m] times values [n, c] or [n], in their precision: [m, c] or [m]."""
    return matrix.carry(values) if isinstance(matrix, Entries) else dense(matrix).to(values).T @ values


def picks(matrix: Matrix) -> tuple[Tensor, Tensor] | None:
    """(rows, columns) if all entries are ones, at most one per column; else, and for `Deferred`, None."""
    if isinstance(matrix, Deferred):
        return None
    if isinstance(matrix, Entries):
        rows, columns, values = matrix.rows, matrix.columns, matrix.values
    else:
        rows, columns = matrix.nonzero(as_tuple=True)
        values = matrix[rows, columns]
    unique = len(columns) == len(columns.unique())
    return (rows, columns) if unique and bool((values == 1).all()) else None


def sums(matrix: Tensor | Entries, dim: int) -> Tensor:
    """Sums over rows (dim 0, [m]) or columns (dim 1, [n])."""
    return matrix.sum(dim) if isinstance(matrix, Tensor) else matrix.sums(dim)


def scaled(
    matrix: Tensor | Entries, *, rows: Tensor | None = None, columns: Tensor | None = None, by: Sequence[float] = ()
) -> Entries | Deferred:
    """A matrix [n, m] times `rows` [n], `columns` [m] and the numbers `by`; deferred if dense."""
    if isinstance(matrix, Entries):
        values = matrix.values if rows is None else matrix.values * rows[matrix.rows]
        values = values if columns is None else values * columns[matrix.columns]
        for number in by:
            values = values * number
        return replace(matrix, values=values)

    def make() -> Tensor:
        product = matrix.clone() if rows is None else matrix * rows[:, None]
        if columns is not None:
            product *= columns
        for number in by:
            product *= number
        return product

    return Deferred((matrix.shape[0], matrix.shape[1]), make)
