"""Optimal transport between the coordinates of models: ground costs, marginals, solvers, couplings, barycentres."""

from compressor.transport.barycentre import Barycentre, barycentre, farthest_first
from compressor.transport.costs import COSTS, Moments, cosine, euclidean, from_weights, ground_cost, squared
from compressor.transport.coupling import Coupling, from_assignment, from_selection, identity
from compressor.transport.marginals import check_marginal, from_importance, uniform
from compressor.transport.registry import Registry
from compressor.transport.solvers import SOLVERS, solve

__all__ = [
    "COSTS",
    "SOLVERS",
    "Barycentre",
    "Coupling",
    "Moments",
    "Registry",
    "barycentre",
    "check_marginal",
    "cosine",
    "euclidean",
    "farthest_first",
    "from_assignment",
    "from_importance",
    "from_selection",
    "from_weights",
    "ground_cost",
    "identity",
    "solve",
    "squared",
    "uniform",
]
