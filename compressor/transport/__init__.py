"""Optimal transport: costs, marginals, solvers, couplings, barycentres."""

from compressor.transport.barycentre import Barycentre, barycentre, farthest_first
from compressor.transport.costs import (
    COSTS,
    PREPARATIONS,
    Moments,
    cosine,
    euclidean,
    from_weights,
    ground_cost,
    prepared,
    squared,
)
from compressor.transport.coupling import Coupling, from_selection, identity_coupling, mixed
from compressor.transport.marginals import check_marginal, from_importance, inverse, uniform
from compressor.transport.options import CouplingOptions
from compressor.transport.pairing import paired
from compressor.transport.sketch import sketch
from compressor.transport.solvers import COST_SCALES, SOLVERS, solve
from compressor.utils.registry import Registry

__all__ = [
    "COSTS",
    "COST_SCALES",
    "PREPARATIONS",
    "SOLVERS",
    "Barycentre",
    "Coupling",
    "CouplingOptions",
    "Moments",
    "Registry",
    "barycentre",
    "check_marginal",
    "cosine",
    "euclidean",
    "farthest_first",
    "from_importance",
    "from_selection",
    "from_weights",
    "ground_cost",
    "identity_coupling",
    "inverse",
    "mixed",
    "paired",
    "prepared",
    "sketch",
    "solve",
    "squared",
    "uniform",
]
