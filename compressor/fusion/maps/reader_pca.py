"""Components of the residual stream that its readers need most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Steps of the descent; more gain little.
READER_STEPS = 15
#: Share of the loss that a step must gain for another.
LEAST_READER_GAIN = 1e-3
#: Times a step that gains nothing is halved.
HALVINGS = 4
#: Share of the largest moment below which a direction is empty: a finetune would overwrite its huge weights.
EMPTY_DIRECTION = 1e-6
#: Weight of an unread direction's energy, as a share of its weight if all were read alike.
UNREAD = 1e-6


@dataclass(frozen=True, eq=False)
class StreamRead:
    """One place where modules read the stream.

    Attributes:
        moments: C [N, N].
        readers: per teacher G = Σ W Wᵀ [n_k, n_k].

    Large products are in the precision of these, small ones in float64.
    """

    moments: Tensor
    readers: tuple[Tensor, ...]


def read_components(reads: Sequence[StreamRead], root: Tensor, start: Tensor) -> Tensor:
    """An orthonormal float64 basis P [N, m] with the readers' loss at most the start's.

    Descent on Σ_j tr G_j (I - R_j Pᵀ) C_j (I - P R_jᵀ), with least-squares recoveries R_j of the stream.

    Args:
        root: √α of every coordinate [N].
        start: an orthonormal basis [N, m].
    """
    if not reads:
        return start
    # A teacher without weight has no part in the basis.
    live = root > 0
    if not bool(live.all()):
        parts = live.split([len(reader) for reader in reads[0].readers])
        basis = torch.zeros_like(start)
        basis[live] = read_components([_of_some(read, live, parts) for read in reads], root[live], start[live])
        return basis
    weighted = [_weighted(read, root) for read in reads]
    energy = sum(read.energy for read in weighted)
    mean = sum((read.moments for read in weighted[1:]), start=weighted[0].moments).double() / len(weighted)
    values, vectors = torch.linalg.eigh(mean)
    filled = values > EMPTY_DIRECTION * values[-1]
    if start.shape[1] >= int(filled.sum()):
        return start
    values, vectors = values[filled], vectors[:, filled]
    starts = (start, _basis_of_mean(weighted, values, vectors, start.shape[1]))
    loss, step, basis = min(
        ((*_loss_and_step(weighted, energy, each), each) for each in starts), key=lambda entry: entry[0]
    )
    for _ in range(READER_STEPS):
        move = vectors @ ((vectors.T @ step) / values[:, None])
        for _ in range(HALVINGS):
            trial = torch.linalg.qr(basis + move)[0]
            trial_loss, trial_step = _loss_and_step(weighted, energy, trial)
            if trial_loss < loss:
                break
            move = move / 2
        else:
            break
        gain, basis, loss, step = loss - trial_loss, trial, trial_loss, trial_step
        if gain < LEAST_READER_GAIN * loss:
            break
    return basis @ torch.linalg.eigh(basis.T @ mean @ basis)[1].flip(1)


@dataclass(frozen=True, eq=False)
class _WeightedRead:
    """A read with C of trace one and G times the old trace; energy: tr G C, the outputs'."""

    moments: Tensor
    readers: tuple[Tensor, ...]
    energy: float


def _basis_of_mean(reads: Sequence[_WeightedRead], values: Tensor, vectors: Tensor, m: int) -> Tensor:
    """The best basis [N, m] for mean moments, which avoids a saddle."""
    spread = vectors * values.sqrt()
    # Unread directions are ordered by their energy.
    weights = UNREAD * sum(read.energy for read in reads) * torch.diag(values)
    totals = [torch.stack(readers).sum(0) for readers in zip(*(read.readers for read in reads), strict=True)]
    weights += spread.T @ _read(totals, spread)
    return torch.linalg.qr((vectors / values.sqrt()) @ torch.linalg.eigh(weights)[1].flip(1)[:, :m])[0]


def _of_some(read: StreamRead, live: Tensor, parts: Sequence[Tensor]) -> StreamRead:
    """A read of the teachers with weight."""
    readers = tuple(reader for reader, part in zip(read.readers, parts, strict=True) if bool(part.any()))
    return StreamRead(read.moments[live][:, live], readers)


def _weighted(read: StreamRead, root: Tensor) -> _WeightedRead:
    root = root.to(read.moments)
    moments = root[:, None] * read.moments * root
    scale = float(moments.diagonal().double().sum().clamp(min=1e-30))
    moments, readers = moments / scale, tuple(scale * reader for reader in read.readers)
    ends = torch.tensor([len(reader) for reader in readers]).cumsum(0).tolist()
    slices = [slice(end - len(reader), end) for end, reader in zip(ends, readers, strict=True)]
    products = (float((reader * moments[k, k]).double().sum()) for reader, k in zip(readers, slices, strict=True))
    return _WeightedRead(moments, readers, sum(products))


def _read(readers: Sequence[Tensor], values: Tensor) -> Tensor:
    """G x for columns [N, c], float64."""
    parts = values.split([len(reader) for reader in readers])
    return torch.cat([_product(reader, part) for reader, part in zip(readers, parts, strict=True)])


def _product(matrix: Tensor, values: Tensor) -> Tensor:
    """The product in the matrix's precision, as float64."""
    return (matrix @ values.to(matrix)).double()


def _loss_and_step(reads: Sequence[_WeightedRead], energy: float, basis: Tensor) -> tuple[float, Tensor]:
    """The loss, and a step that reduces it."""
    total, slope, curvature = energy, torch.zeros_like(basis), torch.zeros(basis.shape[1], basis.shape[1]).to(basis)
    for read in reads:
        shared = _product(read.moments, basis)
        recovery = shared @ _inverse(basis.T @ shared, read.moments.dtype)
        recovered = _read(read.readers, recovery)
        inner = recovery.T @ recovered
        total -= float((recovered * shared).sum())
        slope += _product(read.moments, recovered) - shared @ inner
        curvature += inner
    return total, slope @ _inverse(curvature, reads[0].moments.dtype)


def _inverse(matrix: Tensor, precision: torch.dtype) -> Tensor:
    """The pseudo-inverse of a symmetric matrix computed in a precision."""
    return torch.linalg.pinv((matrix + matrix.T) / 2, rtol=max(1e-12, 10 * torch.finfo(precision).eps), hermitian=True)
