"""Products of low rank that are nearest to given ones, by the moments of what they multiply."""

from __future__ import annotations

import torch
from torch import Tensor

#: The least strength that a channel's scale goes by, as a share of the strongest channel's and of what values carry.
WEAKEST = 1e-3


def low_rank_product(queries: Tensor, keys: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Maps A, B [d, rank] of queries and keys whose products (Aᴴq)ᴴ(Bᴴk) are nearest to qᴴk.

    Args:
        queries, keys: second moments [d, d] of queries and keys, real or complex, taken as independent.
        rank: channels left; more than d are filled with zeros.
    """
    left, left_inverse = roots(queries)
    right, right_inverse = roots(keys)
    u, s, vh = torch.linalg.svd(left @ right)
    kept = min(rank, len(s))
    a = left_inverse @ u[:, :kept] * s[:kept].sqrt()
    b = right_inverse @ vh[:kept].mH * s[:kept].sqrt()
    return padded(a, rank), padded(b, rank)


def low_rank_written(carried: Tensor, outgoing: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Push and pull [d, rank] of a head's values z whose z·push·pullᵀ·W is nearest to z·W.

    A channel's scale is free, since values and what reads them undo it: it is shared out evenly, as it is between
    queries and keys.  Steps of an optimiser, which are as long for either, then suit both.

    Args:
        carried: second moments [d, d] of z.
        outgoing: W [d, n], what reads them.
        rank: channels left, at most d.
    """
    root, inverse = roots(carried)
    u, s, _ = torch.linalg.svd(root @ outgoing, full_matrices=outgoing.shape[1] < rank)
    strengths = padded(s[None, :rank], rank)[0]
    # Values that nothing reads keep a scale of their own: else a refit would need huge weights to be heard.
    least = max(float(s.max()), float(carried.diagonal().mean()), 1e-30)
    share = strengths.clamp(min=WEAKEST * least).sqrt()
    return inverse @ u[:, :rank] * share, root @ u[:, :rank] / share


def roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The Hermitian root of a moment matrix, and the root's inverse."""
    values, vectors = torch.linalg.eigh(moments)
    values = values.clamp(min=1e-9 * float(values.max().clamp(min=1e-30)))
    return (vectors * values.sqrt()) @ vectors.mH, (vectors / values.sqrt()) @ vectors.mH


def padded(matrix: Tensor, columns: int) -> Tensor:
    """The matrix with columns of zeros added, so that it has as many as asked."""
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1]))
