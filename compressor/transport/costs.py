"""Ground costs between coordinates of two models, by activations or weights.

Sums suffice: <x_i - x̄_i, y_j - ȳ_j> = <x_i, y_j> - Σx_i Σy_j / count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.errors import UserError
from compressor.utils.registry import Registry

#: A coordinate is constant if its variance is below this share of its mean square.
CONSTANT = 1e-12


@dataclass(frozen=True, eq=False)
class Moments:
    """Float64 sums over tokens.

    Attributes:
        xx, yy: squared norms [n], [m].
        xy: <x_i, y_j> [n, m].
        x, y: sums, or None.
        count: tokens; 1 for means.
    """

    xx: Tensor
    yy: Tensor
    xy: Tensor
    x: Tensor | None = None
    y: Tensor | None = None
    count: float = 1.0


#: moments -> cost [n, m].
GroundCost = Callable[[Moments], Tensor]
#: moments of features -> moments of the prepared features.
Preparation = Callable[[Moments], Moments]

COSTS: Registry[GroundCost] = Registry("ground cost")
PREPARATIONS: Registry[Preparation] = Registry("preparation of features")


def from_weights(x: Tensor, y: Tensor) -> Moments:
    """Moments of features [n, k], [m, k]."""
    x, y = x.double(), y.double()
    return Moments((x * x).sum(1), (y * y).sum(1), x @ y.T, x.sum(1), y.sum(1), float(x.shape[1]))


def ground_cost(name: str, moments: Moments) -> Tensor:
    """The named cost [n, m], or UserError."""
    return COSTS.get(name)(moments)


def prepared(name: str, moments: Moments) -> Moments:
    """Prepared moments; UserError without the name or means."""
    return PREPARATIONS.get(name)(moments)


# Preparations


@PREPARATIONS.register("raw")
def raw(moments: Moments) -> Moments:
    """The features as they are."""
    return moments


@PREPARATIONS.register("centred")
def centred(moments: Moments) -> Moments:
    """x_i - x̄_i; a constant coordinate becomes exactly zero.

    UserError without means.
    """
    xx, yy, xy, x, y, count = moments.xx, moments.yy, moments.xy, moments.x, moments.y, moments.count
    if x is None or y is None:
        raise UserError("features cannot be centred without their means: use another cost and preparation of features")
    variation_x, variation_y = _variation(xx, x, count), _variation(yy, y, count)
    vary = (variation_x > 0)[:, None] & (variation_y > 0)[None, :]
    # In place: matrices take hundreds of megabytes.
    covariation = torch.outer(x, y).div_(count).neg_().add_(xy).masked_fill_(~vary, 0.0)
    return Moments(variation_x, variation_y, covariation, torch.zeros_like(x), torch.zeros_like(y), count)


@PREPARATIONS.register("standardised")
def standardised(moments: Moments) -> Moments:
    """(x_i - x̄_i) / σ_i; a constant coordinate stays zero.

    UserError without means.
    """
    variation = centred(moments)
    p, q = (_inverse_root(squares / variation.count) for squares in (variation.xx, variation.yy))
    return _scaled(variation, p, q)


@PREPARATIONS.register("normalised")
def normalised(moments: Moments) -> Moments:
    """x_i / ||x_i||, not centred; a dead coordinate stays zero."""
    return _scaled(moments, _inverse_root(moments.xx), _inverse_root(moments.yy))


def _scaled(moments: Moments, p: Tensor, q: Tensor) -> Moments:
    """Moments of p_i x_i and q_j y_j."""
    x, y = None if moments.x is None else p * moments.x, None if moments.y is None else q * moments.y
    xy = p[:, None] * moments.xy * q[None, :]
    return Moments(p * moments.xx * p, q * moments.yy * q, xy, x, y, moments.count)


def _variation(xx: Tensor, x: Tensor, count: float) -> Tensor:
    """Σ (x_i - x̄_i)²."""
    variation = xx - x.square() / count
    return torch.where(variation > CONSTANT * xx, variation, 0.0)


def _inverse_root(squares: Tensor) -> Tensor:
    return torch.where(squares > 0, squares.rsqrt(), 0.0)


# Ground costs


def squared(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """||x_i - y_j||² [n, m]; barycentres under this cost are means."""
    return (xx[:, None] + yy[None, :]).sub_(2 * xy).clamp_min_(0)


def euclidean(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """||x_i - y_j|| [n, m], the paper's cost."""
    return squared(xx, yy, xy).sqrt_()


def cosine(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """1 - cos(x_i, y_j), in [0, 2]; 0 between two dead coordinates, 1 for one."""
    norms = (xx[:, None] * yy[None, :]).clamp_min(0).sqrt()
    alike = torch.where(norms > 0, xy / norms, 0.0)
    both_dead = (xx[:, None] <= 0) & (yy[None, :] <= 0)
    return torch.where(both_dead, 0.0, 1 - alike.clamp(-1, 1))


def _of_products(cost: Callable[[Tensor, Tensor, Tensor], Tensor]) -> GroundCost:
    """A ground cost from inner products."""
    return lambda moments: cost(moments.xx, moments.yy, moments.xy)


COSTS.register("squared")(_of_products(squared))
COSTS.register("euclidean")(_of_products(euclidean))
COSTS.register("cosine")(_of_products(cosine))


@COSTS.register("correlation")
def correlation(moments: Moments) -> Tensor:
    """1 - Pearson's corr(x_i, y_j) [n, m], in [0, 2]; 0 between two constant coordinates, 1 for one.

    UserError without means.
    """
    variation = centred(moments)
    return cosine(variation.xx, variation.yy, variation.xy)
