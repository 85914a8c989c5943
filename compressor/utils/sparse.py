"""Matrices that are not kept dense: those of few entries, and those that are made each time they are needed.

A map between 4,096 hidden units takes 134 MB as a dense matrix in double precision, and a model has two dozen.  Most of
them only pick coordinates, and what is left follows from one plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Entries:
    """A matrix [n, m] by its entries that are not zero.  Results are those of the dense matrix, to the last bit.

    Attributes:
        rows, columns: where they are, row by row, integers [e].
        values: what they are, float64 [e].
        shape: (n, m).
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, matrix: Tensor) -> Entries | None:
        """The entries of a dense matrix [n, m], if they are no more than n + m: as many as a hard plan has."""
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
        found = torch.zeros(self.shape, dtype=self.values.dtype)
        found[self.rows, self.columns] = self.values
        return found

    def sums(self, dim: int) -> Tensor:
        """Sums over the rows (dim 0, [m]) or the columns (dim 1, [n])."""
        alone, places = (self.one_a_column, self.columns) if dim == 0 else (self.one_a_row, self.rows)
        if not alone:
            return self.dense().sum(dim)
        found = torch.zeros(self.shape[1 - dim], dtype=self.values.dtype)
        found[places] = self.values
        return found

    def carry(self, values: Tensor) -> Tensor:
        """Its transpose times values [n, c] or [n], in their precision: [m, c] or [m]."""
        if not self.one_a_column:
            return self.dense().to(values).T @ values
        moved = torch.zeros(self.shape[1], *values.shape[1:], dtype=values.dtype, device=values.device)
        times = self.values.to(values).reshape(-1, *[1] * (values.dim() - 1))
        return moved.index_copy_(0, self.columns, values.index_select(0, self.rows).mul_(times))

    def move(self, values: Tensor) -> Tensor:
        """Row vectors [T, n] times it, in their precision: [T, m]."""
        if not self.one_a_column:
            return values @ self.dense().to(values)
        moved = torch.zeros(len(values), self.shape[1], dtype=values.dtype, device=values.device)
        return moved.index_copy_(1, self.columns, values.index_select(1, self.rows).mul_(self.values.to(values)))


@dataclass(frozen=True, eq=False)
class Deferred:
    """A matrix that is made each time it is asked for.

    Attributes:
        shape: (n, m).
        make: makes it.
    """

    shape: tuple[int, int]
    make: Callable[[], Tensor]

    def dense(self) -> Tensor:
        return self.make()


#: Any of them; a tensor may have leading dimensions.
Matrix = Tensor | Entries | Deferred


def dense(matrix: Matrix) -> Tensor:
    """The matrix as a tensor."""
    return matrix if isinstance(matrix, Tensor) else matrix.dense()


def carry(matrix: Matrix, values: Tensor) -> Tensor:
    """The transpose of a matrix [n, m] times values [n, c] or [n], in their precision: [m, c] or [m]."""
    return matrix.carry(values) if isinstance(matrix, Entries) else dense(matrix).to(values).T @ values


def picks(matrix: Matrix) -> tuple[Tensor, Tensor] | None:
    """(rows, columns) of the ones in a matrix without other entries and with one a column at most; else None.

    What is made when it is asked for has many entries: it does not only pick.
    """
    if isinstance(matrix, Deferred):
        return None
    if isinstance(matrix, Entries):
        rows, columns, values = matrix.rows, matrix.columns, matrix.values
    else:
        rows, columns = matrix.nonzero(as_tuple=True)
        values = matrix[rows, columns]
    alone = len(columns) == len(columns.unique())
    return (rows, columns) if alone and bool((values == 1).all()) else None


def sums(matrix: Tensor | Entries, dim: int) -> Tensor:
    """Sums over the rows (dim 0, [m]) or the columns (dim 1, [n])."""
    return matrix.sum(dim) if isinstance(matrix, Tensor) else matrix.sums(dim)


def scaled(
    matrix: Tensor | Entries, *, rows: Tensor | None = None, columns: Tensor | None = None, by: Sequence[float] = ()
) -> Entries | Deferred:
    """A matrix [n, m] times one number a row [n], one a column [m], and numbers.

    Of a dense matrix nothing is computed before it is asked for.
    """
    if isinstance(matrix, Entries):
        values = matrix.values if rows is None else matrix.values * rows[matrix.rows]
        values = values if columns is None else values * columns[matrix.columns]
        for number in by:
            values = values * number
        return replace(matrix, values=values)

    def make() -> Tensor:
        found = matrix.clone() if rows is None else matrix * rows[:, None]
        if columns is not None:
            found *= columns
        for number in by:
            found *= number
        return found

    return Deferred((matrix.shape[0], matrix.shape[1]), make)
