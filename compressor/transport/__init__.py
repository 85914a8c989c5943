"""Optimal transport between the coordinates of models: ground costs, marginals, solvers, couplings, barycentres."""

from compressor.registry import Registry
from compressor.transport.aligner import Aligner
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
from compressor.transport.coupling import Coupling, compose, from_assignment, from_selection, identity, mixed
from compressor.transport.marginals import check_marginal, from_importance, inverse, uniform
from compressor.transport.sketch import sketch
from compressor.transport.solvers import COST_SCALES, SOLVERS, solve

__all__ = [
    "COSTS",
    "COST_SCALES",
    "PREPARATIONS",
    "SOLVERS",
    "Aligner",
    "Barycentre",
    "Coupling",
    "Moments",
    "Registry",
    "barycentre",
    "check_marginal",
    "compose",
    "cosine",
    "euclidean",
    "farthest_first",
    "from_assignment",
    "from_importance",
    "from_selection",
    "from_weights",
    "ground_cost",
    "identity",
    "inverse",
    "mixed",
    "prepared",
    "sketch",
    "solve",
    "squared",
    "uniform",
]
