"""Options of a coupling between two models' coordinates: preparation of features, ground cost and solver."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressor.transport.costs import COSTS, PREPARATIONS, Moments, ground_cost, prepared
from compressor.transport.coupling import Coupling
from compressor.transport.solvers import COST_SCALES, SOLVERS, check_options, solve


@dataclass(frozen=True)
class CouplingOptions:
    """Options of a coupling; the constructor does not check them, `check` does.

    Attributes:
        cost: ground cost, one of `COSTS`.
        preparation: of the features before they are compared, one of `PREPARATIONS`.
        normalise: the unit of epsilon and relaxation, one of `COST_SCALES`.
        solver: one of `SOLVERS`.
        epsilon: entropic regularisation of the soft solvers, in units of the cost scale; above 0.
        mass: share of the mass that partial transport moves, in (0, 1].
        relaxation: weight of the marginals' divergences in unbalanced transport, in units of the cost scale; above 0.
    """

    cost: str = "euclidean"
    preparation: str = "raw"
    normalise: str = "median"
    solver: str = "emd"
    epsilon: float = 0.05
    mass: float = 0.9
    relaxation: float = 1.0

    def check(self) -> None:
        """Check names and ranges.

        Raises:
            UserError: a name is unknown (the message lists the known ones), or a number is out of its range.
        """
        COSTS.get(self.cost)
        PREPARATIONS.get(self.preparation)
        COST_SCALES.get(self.normalise)
        SOLVERS.get(self.solver)
        check_options(self.epsilon, self.mass, self.relaxation)

    def couple(self, moments: Moments, mu: Tensor | None = None, nu: Tensor | None = None, *, space: str) -> Coupling:
        """Couple n source to m target coordinates.

        Args:
            moments: of the features of both.
            mu: source marginal [n]; uniform if omitted.
            nu: target marginal [m]; uniform if omitted; the semi-relaxed solvers ignore it.
            space: name for errors and the report.

        Raises:
            UserError: a name is unknown, or features without means cannot be centred.
            CouplingError: an option, a cost or a marginal is invalid, or the solver did not converge.
        """
        cost = ground_cost(self.cost, prepared(self.preparation, moments))
        return solve(
            self.solver, cost, mu, nu, epsilon=self.epsilon, mass=self.mass, relaxation=self.relaxation,
            normalise=self.normalise, space=space,
        )  # fmt: skip
