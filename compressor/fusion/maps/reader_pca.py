"""Components of the residual stream that its readers would miss most.

Principal components keep what the stream has most of, read or not.  What matters is what the linear modules that read
the stream would put out if all they had of it were m components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Steps of the descent; more gain little.
READER_STEPS = 15
#: How often a step that gains nothing is halved before the descent ends.
HALVINGS = 4
#: Share of the largest moment below which a direction of the stream is empty: what little is there would need weights
#: so large that the first step of a finetune overwrites it.
EMPTY_DIRECTION = 1e-6
#: What a direction of the stream counts by its energy alone, as a share of what it counts if all is read alike.
UNREAD = 1e-6


@dataclass(frozen=True, eq=False)
class StreamRead:
    """One place where the stream is read.

    Attributes:
        moments: C, joint second moments of what is read there [N, N], all teachers' coordinates side by side.
        readers: of each teacher G = Σ W Wᵀ over the modules that read it there [n_k, n_k], W [n_k, outputs].
    """

    moments: Tensor
    readers: tuple[Tensor, ...]


def read_components(reads: Sequence[StreamRead], root: Tensor, start: Tensor) -> Tensor:
    """An orthonormal basis of which readers miss as little as possible; never more than of the one begun with.

    What they miss is Σ_j tr G_j (C_j - C_j P (Pᵀ C_j P)⁻¹ Pᵀ C_j), the stream being told from z = Pᵀx by least squares.
    Steps alternate: at every read what tells the stream from its components is R_j; given those, steps of the basis
    that lessen Σ_j tr G_j (I - R_j Pᵀ) C_j (I - P R_jᵀ) are preconditioned with the mean moments.

    Args:
        reads: where the stream is read.
        root: √α of every coordinate [N], which it is multiplied by.
        start: an orthonormal basis to begin with [N, m].

    Returns:
        The basis [N, m], the components in the order of their mean square; the one begun with where nothing is known
        of readers, or if it leaves nothing out.
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
    begun = [(*_look(weighted, one), one) for one in (start, _as_if_alike(weighted, values, vectors, start.shape[1]))]
    best, slope, basis = min(begun, key=lambda one: one[0])
    for _ in range(READER_STEPS):
        step = vectors @ ((vectors.T @ slope) / values[:, None])
        for _ in range(HALVINGS):
            tried = torch.linalg.qr(basis + step)[0]
            value, following = _look(weighted, tried)
            if value < best:
                break
            step = step / 2
        else:
            break
        basis, best, slope = tried, value, following
    return basis @ torch.linalg.eigh(basis.T @ mean @ basis)[1].flip(1)


def _as_if_alike(reads: Sequence[StreamRead], values: Tensor, vectors: Tensor, m: int) -> Tensor:
    """The best basis [N, m] if the stream had its mean moments, given by their eigenvalues, at every read.

    A basis that holds what nobody reads is a saddle, which descent may not leave: this one does not.
    """
    spread = vectors * values.sqrt()
    # Among what is not read, what there is most of comes first.
    asked = UNREAD * sum(_energy(read) for read in reads) * torch.diag(values)
    for read in reads:
        asked += spread.T @ _asked(read, spread)
    return torch.linalg.qr((vectors / values.sqrt()) @ torch.linalg.eigh(asked)[1].flip(1)[:, :m])[0]


def _weighted(read: StreamRead, root: Tensor) -> StreamRead:
    """With a trace of one, and G with what that takes from C: the stream's unit tells nothing."""
    moments = root[:, None] * read.moments.double() * root
    scale = moments.diagonal().sum().clamp(min=1e-30)
    return StreamRead(moments / scale, tuple(scale * one for one in read.readers))


def _energy(read: StreamRead) -> float:
    """tr G C: of all that readers put out."""
    ends = torch.tensor([len(one) for one in read.readers]).cumsum(0).tolist()
    own = [slice(end - len(one), end) for end, one in zip(ends, read.readers, strict=True)]
    return sum(float((one * read.moments[k, k]).sum()) for one, k in zip(read.readers, own, strict=True))


def _asked(read: StreamRead, values: Tensor) -> Tensor:
    """G x for columns [N, c] of all teachers' coordinates."""
    parts = values.split([len(one) for one in read.readers])
    return torch.cat([one @ part for one, part in zip(read.readers, parts, strict=True)])


def _look(reads: Sequence[StreamRead], basis: Tensor) -> tuple[float, Tensor]:
    """What is missed at all reads, and the way for the basis that lessens it."""
    total, slope, curvature = 0.0, torch.zeros_like(basis), torch.zeros(basis.shape[1], basis.shape[1]).to(basis)
    for read in reads:
        told = read.moments @ basis
        back = told @ torch.linalg.pinv(basis.T @ told, rtol=1e-12, hermitian=True)
        asked = _asked(read, back)
        inner = back.T @ asked
        total += _energy(read) - float((asked * told).sum())
        slope += read.moments @ (asked - basis @ inner)
        curvature += inner
    return total, slope @ torch.linalg.pinv(curvature, rtol=1e-12, hermitian=True)
