"""Streamed sums for least squares: products in the activations' precision and place, sums in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.fusion.calibration.processes import Processes

#: Columns of one block of a product: the memory of larger ones would be new for every batch, which takes longer than
#: the sums.
BLOCK_COLUMNS = 384


class Gram:
    """Second moments and means of rows.

    Attributes:
        gram: Σ xᵀx [n, n], float64.
        total: Σ x [n].
        dtype: the rows'.
    """

    def __init__(self, size: int) -> None:
        self.gram = torch.zeros(size, size, dtype=torch.float64)
        self.total = torch.zeros(size, dtype=torch.float64)
        self.count = 0
        self.dtype = torch.float32

    def add(self, rows: Tensor) -> None:
        """Add rows [T, n]."""
        self.dtype = rows.dtype
        _add_self_product(self.gram, rows)
        self.total += rows.sum(0).cpu()
        self.count += rows.shape[0]

    def add_up(self, processes: Processes) -> None:
        """Take in the rows of all processes."""
        processes.add_up(self.gram, self.total)
        self.count = round(processes.total(self.count))

    def second_moment(self) -> Tensor:
        """E[xᵀx], [n, n]."""
        return self.gram / max(self.count, 1)


class Regression:
    """Sums for least squares, float64; rows shifted by an origin, against cancellation.

    Attributes:
        gram: Σ uᵀu [n, n], u = inputs - origin.
        cross: Σ uᵀy [n, m], y = outputs - origin.
        inputs, outputs: Σ u [n] and Σ y [m].
        energy: Σ |y|².
        precision: the rows' epsilon.
    """

    def __init__(self, inputs: int, outputs: int, origin: tuple[Tensor, Tensor] | None = None) -> None:
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64)
        self.inputs = torch.zeros(inputs, dtype=torch.float64)
        self.outputs = torch.zeros(outputs, dtype=torch.float64)
        self.energy = 0.0
        self.precision = 0.0
        self.count = 0
        self.origin = origin

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add pairs of rows [T, n] and [T, m]."""
        if self.origin is not None:
            inputs, outputs = inputs - self.origin[0].to(inputs), outputs - self.origin[1].to(outputs)
        _add_self_product(self.gram, inputs)
        for start in range(0, inputs.shape[1], BLOCK_COLUMNS):
            self.cross[start : start + BLOCK_COLUMNS] += (inputs[:, start : start + BLOCK_COLUMNS].T @ outputs).cpu()
        self.inputs += inputs.sum(0).cpu()
        self.outputs += outputs.sum(0).cpu()
        self.energy += float(outputs.square().sum(0).cpu().double().sum())
        self.precision = torch.finfo(inputs.dtype).eps
        self.count += inputs.shape[0]

    def add_up(self, processes: Processes) -> None:
        """Take in the rows of all processes, whose origin is the same."""
        processes.add_up(self.gram, self.cross, self.inputs, self.outputs)
        self.energy, self.count = processes.total(self.energy), round(processes.total(self.count))


def self_product(values: Tensor) -> Tensor:
    """xᵀx of rows [T, n], float64 on the CPU."""
    product = torch.zeros(values.shape[1], values.shape[1], dtype=torch.float64)
    _add_self_product(product, values)
    return product


def _add_self_product(total: Tensor, values: Tensor) -> None:
    """Add xᵀx of rows [T, n] to float64 sums, from one triangle."""
    for start in range(0, values.shape[1], BLOCK_COLUMNS):
        stop = start + BLOCK_COLUMNS
        block = (values[:, start:stop].T @ values[:, start:]).cpu()
        total[start:stop, start:] += block
        total[stop:, start:stop] += block[:, stop - start :].T


def token_rows(values: Tensor, mask: Tensor | None) -> Tensor:
    """Token vectors [T, n] of [B, ..., n], without padding."""
    flat = values.reshape(-1, values.shape[-1])
    # Pooled samples and tables of positions have no padding.
    return flat if mask is None or mask.numel() != len(flat) else flat[mask.reshape(-1)]


def join_coordinates(parts: Sequence[Tensor]) -> Tensor:
    """Coordinates side by side: [T, n_k] each -> [T, N]."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=-1)
