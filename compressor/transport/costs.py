"""Ground costs: how far coordinate i of one model is from coordinate j of another.

The features of a coordinate are its activations over the calibration tokens (x_i, y_j) or, without data, its weights.
Either way the costs need only inner products, never the features themselves:

    ||x_i - y_j||² = <x_i, x_i> + <y_j, y_j> - 2 <x_i, y_j>.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.transport.registry import Registry

#: (xx [n], yy [m], xy [n, m]) -> cost [n, m]
GroundCost = Callable[[Tensor, Tensor, Tensor], Tensor]

COSTS: Registry[GroundCost] = Registry("ground cost")


@dataclass(frozen=True)
class Moments:
    """Inner products of features, all float64 and over the same tokens.

    Attributes:
        xx: <x_i, x_i> of the source coordinates, [n].
        yy: <y_j, y_j> of the target coordinates, [m].
        xy: <x_i, y_j>, [n, m].
    """

    xx: Tensor
    yy: Tensor
    xy: Tensor


def from_weights(x: Tensor, y: Tensor) -> Moments:
    """The moments of two feature matrices [n, k] and [m, k]: one row per coordinate."""
    x, y = x.double(), y.double()
    return Moments((x * x).sum(1), (y * y).sum(1), x @ y.T)


def ground_cost(name: str, moments: Moments) -> Tensor:
    """The ground cost of that name, [n, m]; UserError lists the known names."""
    return COSTS.get(name)(moments.xx, moments.yy, moments.xy)


@COSTS.register("squared")
def squared(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """||x_i - y_j||², the cost whose barycentres are means."""
    return (xx[:, None] + yy[None, :] - 2 * xy).clamp_min(0)


@COSTS.register("euclidean")
def euclidean(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """||x_i - y_j||, the paper's cost."""
    return squared(xx, yy, xy).sqrt()


@COSTS.register("cosine")
def cosine(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """1 - cos(x_i, y_j), in [0, 2].  A dead coordinate is at 0 from another dead one and at 1 from all others."""
    norms = (xx[:, None] * yy[None, :]).clamp_min(0).sqrt()
    alike = torch.where(norms > 0, xy / norms, 0.0)
    both_dead = (xx[:, None] <= 0) & (yy[None, :] <= 0)
    return torch.where(both_dead, 0.0, 1 - alike.clamp(-1, 1))
