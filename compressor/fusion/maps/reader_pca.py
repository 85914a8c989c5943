"""Components of the residual stream that its readers need most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Steps of the descent; more gain little.
READER_STEPS = 15
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
    """

    moments: Tensor
    readers: tuple[Tensor, ...]


def read_components(reads: Sequence[StreamRead], root: Tensor, start: Tensor) -> Tensor:
    """An orthonormal basis P [N, m] with the readers' loss at most the start's.

    Descent on Σ_j tr G_j (I - R_j Pᵀ) C_j (I - P R_jᵀ), with least-squares recoveries R_j of the stream.

    Args:
        root: √α of every coordinate [N].
        start: an orthonormal basis [N, m].
    """
    if not reads:
        return start
    weighted = [_weighted(read, root) for read in reads]
    mean = torch.stack([read.moments for read in weighted]).mean(0)
    values, vectors = torch.linalg.eigh(mean)
    filled = values > EMPTY_DIRECTION * values[-1]
    if start.shape[1] >= int(filled.sum()):
        return start
    values, vectors = values[filled], vectors[:, filled]
    starts = (start, _basis_of_mean(weighted, values, vectors, start.shape[1]))
    loss, step, basis = min(((*_loss_and_step(weighted, each), each) for each in starts), key=lambda entry: entry[0])
    for _ in range(READER_STEPS):
        move = vectors @ ((vectors.T @ step) / values[:, None])
        for _ in range(HALVINGS):
            trial = torch.linalg.qr(basis + move)[0]
            trial_loss, trial_step = _loss_and_step(weighted, trial)
            if trial_loss < loss:
                break
            move = move / 2
        else:
            break
        basis, loss, step = trial, trial_loss, trial_step
    return basis @ torch.linalg.eigh(basis.T @ mean @ basis)[1].flip(1)


def _basis_of_mean(reads: Sequence[StreamRead], values: Tensor, vectors: Tensor, m: int) -> Tensor:
    """The best basis [N, m] for mean moments, which avoids a saddle."""
    spread = vectors * values.sqrt()
    # Unread directions are ordered by their energy.
    weights = UNREAD * sum(_energy(read) for read in reads) * torch.diag(values)
    for read in reads:
        weights += spread.T @ _read(read, spread)
    return torch.linalg.qr((vectors / values.sqrt()) @ torch.linalg.eigh(weights)[1].flip(1)[:, :m])[0]


def _weighted(read: StreamRead, root: Tensor) -> StreamRead:
    """C with trace one, G times the old trace."""
    moments = root[:, None] * read.moments.double() * root
    scale = moments.diagonal().sum().clamp(min=1e-30)
    return StreamRead(moments / scale, tuple(scale * reader for reader in read.readers))


def _energy(read: StreamRead) -> float:
    """tr G C, the outputs' energy."""
    ends = torch.tensor([len(reader) for reader in read.readers]).cumsum(0).tolist()
    slices = [slice(end - len(reader), end) for end, reader in zip(ends, read.readers, strict=True)]
    return sum(float((reader * read.moments[k, k]).sum()) for reader, k in zip(read.readers, slices, strict=True))


def _read(read: StreamRead, values: Tensor) -> Tensor:
    """G x for columns [N, c]."""
    parts = values.split([len(reader) for reader in read.readers])
    return torch.cat([reader @ part for reader, part in zip(read.readers, parts, strict=True)])


def _loss_and_step(reads: Sequence[StreamRead], basis: Tensor) -> tuple[float, Tensor]:
    """The loss, and a step that reduces it."""
    total, slope, curvature = 0.0, torch.zeros_like(basis), torch.zeros(basis.shape[1], basis.shape[1]).to(basis)
    for read in reads:
        shared = read.moments @ basis
        recovery = shared @ torch.linalg.pinv(basis.T @ shared, rtol=1e-12, hermitian=True)
        recovered = _read(read, recovery)
        inner = recovery.T @ recovered
        total += _energy(read) - float((recovered * shared).sum())
        slope += read.moments @ (recovered - basis @ inner)
        curvature += inner
    return total, slope @ torch.linalg.pinv(curvature, rtol=1e-12, hermitian=True)
