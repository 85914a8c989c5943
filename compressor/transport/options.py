"""Options of a coupling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressor.transport.costs import COSTS, PREPARATIONS, Moments, ground_cost, prepared
from compressor.transport.coupling import Coupling
from compressor.transport.solvers import COST_SCALES, SOLVERS, check_options, solve


@dataclass(frozen=True)
class CouplingOptions:
    """Options of a coupling; only `check` checks them.

    Attributes:
        cost, preparation, solver, normalise: registered names.
        epsilon, mass, relaxation: as in `solve`.
    """

    cost: str = "euclidean"
    preparation: str = "raw"
    normalise: str = "median"
    solver: str = "emd"
    epsilon: float = 0.05
    mass: float = 0.9
    relaxation: float = 1.0

    def check(self) -> None:
        """UserError for an invalid option."""
        COSTS.get(self.cost)
        PREPARATIONS.get(self.preparation)
        COST_SCALES.get(self.normalise)
        SOLVERS.get(self.solver)
        check_options(self.epsilon, self.mass, self.relaxation)

    def couple(self, moments: Moments, mu: Tensor | None = None, nu: Tensor | None = None, *, space: str) -> Coupling:
        """Couple n source to m target coordinates; default marginals are uniform.

        Raises:
            UserError: a name or needed means are unknown.
            CouplingError: invalid input or failed solver.
        """
        cost = ground_cost(self.cost, prepared(self.preparation, moments))
        return solve(
            self.solver, cost, mu, nu, epsilon=self.epsilon, mass=self.mass, relaxation=self.relaxation,
            normalise=self.normalise, space=space,
        )  # fmt: skip
