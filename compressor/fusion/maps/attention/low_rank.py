"""Low-rank approximations of products, weighted by input moments."""

from __future__ import annotations

import torch
from torch import Tensor

#: Least scale of a channel, as a share of the strongest's and of the values' mean square.
WEAKEST = 1e-3


def low_rank_product(queries: Tensor, keys: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Maps A, B [d, rank] whose products (Aᴴq)ᴴ(Bᴴk) are nearest to qᴴk.

    Args:
        queries, keys: second moments [d, d], taken as independent.
    """
    left, left_inverse = roots(queries)
    right, right_inverse = roots(keys)
    u, s, vh = torch.linalg.svd(left @ right)
    count = min(rank, len(s))
    a = left_inverse @ u[:, :count] * s[:count].sqrt()
    b = right_inverse @ vh[:count].mH * s[:count].sqrt()
    return padded(a, rank), padded(b, rank)


def low_rank_written(outputs: Tensor, outgoing: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Push and pull [d, rank] whose z·push·pullᵀ·W is nearest to z·W.

    Both share a channel's scale, so that equal steps suit both.

    Args:
        outputs: second moments of z [d, d].
        outgoing: W [d, n].
    """
    root, inverse = roots(outputs)
    u, s, _ = torch.linalg.svd(root @ outgoing, full_matrices=outgoing.shape[1] < rank)
    strengths = padded(s[None, :rank], rank)[0]
    # Values that nothing reads keep some scale: else a refit would need huge weights.
    least = max(float(s.max()), float(outputs.diagonal().mean()), 1e-30)
    share = strengths.clamp(min=WEAKEST * least).sqrt()
    return inverse @ u[:, :rank] * share, root @ u[:, :rank] / share


def roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Hermitian root of moments, and its inverse."""
    values, vectors = torch.linalg.eigh(moments)
    values = values.clamp(min=1e-9 * float(values.max().clamp(min=1e-30)))
    return (vectors * values.sqrt()) @ vectors.mH, (vectors / values.sqrt()) @ vectors.mH


def padded(matrix: Tensor, columns: int) -> Tensor:
    """Add zero columns up to `columns`."""
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1]))
