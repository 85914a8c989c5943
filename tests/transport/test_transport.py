"""Costs, marginals, solvers and couplings: what a transport map must satisfy, and the traps of one-matrix fusion."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import ot
import pytest
import torch

from compressor.errors import CouplingError, CouplingWarning, UserError
from compressor.transport import (
    COSTS,
    SOLVERS,
    Coupling,
    Moments,
    Registry,
    check_marginal,
    from_importance,
    from_selection,
    from_weights,
    ground_cost,
    identity_coupling,
    solve,
    uniform,
)

FIXED = ("emd", "sinkhorn")
FREE = ("semirelaxed", "semirelaxed-entropic")
SHAPES = [(7, 7), (24, 12), (9, 20), (1, 5), (5, 1), (1, 1)]


def features(n: int, k: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_marginal(n: int, seed: int) -> torch.Tensor:
    return from_importance(torch.rand(n, generator=torch.Generator().manual_seed(seed)) + 0.05)


def random_cost(n: int, m: int, seed: int = 0, name: str = "euclidean") -> torch.Tensor:
    return ground_cost(name, from_weights(features(n, seed=seed), features(m, seed=seed + 100)))


def rel(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


# Ground costs


def test_costs_from_inner_products_are_the_costs_of_the_features():
    x, y = features(8), features(5, seed=1)
    moments = from_weights(x, y)
    distance = torch.cdist(x, y)
    torch.testing.assert_close(ground_cost("euclidean", moments), distance)
    torch.testing.assert_close(ground_cost("squared", moments), distance**2)
    expected = 1 - torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2)
    torch.testing.assert_close(ground_cost("cosine", moments), expected)


def test_costs_never_leave_their_range_by_rounding():
    x = features(30, k=2) * 1e6
    moments = from_weights(x, x.clone())
    assert bool((ground_cost("squared", moments) >= 0).all())
    assert bool(torch.isfinite(ground_cost("euclidean", moments)).all())
    cosine = ground_cost("cosine", from_weights(x, 3 * x))
    assert bool((cosine >= 0).all()) and bool((cosine <= 2).all())


def test_cosine_of_dead_coordinates_is_defined():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(
        ground_cost("cosine", from_weights(x, x)), torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    )


def test_moments_are_float64_whatever_the_weights_are():
    moments = from_weights(features(3).float(), features(4).half())
    assert {moments.xx.dtype, moments.yy.dtype, moments.xy.dtype} == {torch.float64}


# Names


def test_unknown_names_are_answered_with_the_known_ones():
    ones = torch.ones(1, dtype=torch.float64)
    with pytest.raises(
        UserError, match=r"unknown ground cost 'euclid' \(known: squared, euclidean, cosine, correlation\)"
    ):
        ground_cost("euclid", Moments(ones, ones, ones[:, None]))
    with pytest.raises(UserError, match=r"unknown transport solver 'simplex' \(known: emd, sinkhorn, semirelaxed, "):
        solve("simplex", torch.ones(2, 2))
    assert COSTS.names() == ("squared", "euclidean", "cosine", "correlation")
    assert SOLVERS.names() == FIXED + FREE + ("partial", "unbalanced")


def test_a_name_is_registered_once():
    registry: Registry[int] = Registry("number")
    assert registry.register("one")(1) == 1
    assert registry.get("one") == 1
    with pytest.raises(ValueError, match="number 'one' is registered twice"):
        registry.register("one")(2)


# Marginals


def test_importance_becomes_mass_and_dead_coordinates_keep_a_little():
    mu = from_importance(torch.tensor([3.0, 1.0, 0.0]))
    assert float(mu.sum()) == pytest.approx(1)
    assert float(mu[0] / mu[1]) == pytest.approx(3)
    assert 0 < float(mu[2]) < 1e-2 * float(mu[1])


@pytest.mark.parametrize(
    ("importance", "floor"),
    [([1.0, -1.0], 1e-3), ([0.0, 0.0], 1e-3), ([1.0, math.nan], 1e-3), ([math.inf, 1.0], 1e-3), ([1.0, 0.0], 0.0)],
)
def test_impossible_importance_is_refused_by_the_name_of_its_space(importance, floor):
    with pytest.raises(CouplingError, match="layer 3 heads"):
        from_importance(torch.tensor(importance), floor=floor, space="layer 3 heads")


@pytest.mark.parametrize("marginal", [[0.5, 0.6], [0.0, 1.0], [-0.5, 1.5], [1.0], [math.nan, 1.0]])
def test_what_is_no_marginal_is_refused(marginal):
    with pytest.raises(CouplingError, match="residual: mu"):
        check_marginal(torch.tensor(marginal), 2, name="mu", space="residual")
    with pytest.raises(CouplingError, match="residual: nu"):
        solve("emd", torch.ones(2, 2), nu=torch.tensor(marginal), space="residual")


# Solvers


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FIXED + FREE)
@pytest.mark.parametrize("skewed", [False, True])
def test_marginals_hold_and_push_and_pull_are_stochastic(name, shape, skewed):
    n, m = shape
    mu, nu = (random_marginal(n, 1), random_marginal(m, 2)) if skewed else (uniform(n), uniform(m))
    coupling = solve(name, random_cost(n, m), mu, nu)
    torch.testing.assert_close(coupling.plan.sum(1), mu, rtol=1e-6, atol=0)
    if name in FIXED:
        torch.testing.assert_close(coupling.nu, nu)
    torch.testing.assert_close(coupling.plan.sum(0), coupling.nu, rtol=1e-6, atol=0)
    torch.testing.assert_close(coupling.pull().sum(1), torch.ones(n, dtype=torch.float64), rtol=1e-6, atol=0)
    reached = (coupling.nu > 0).double()
    torch.testing.assert_close(coupling.push().sum(0), reached, rtol=1e-6, atol=1e-9)
    assert coupling.marginal_error <= 1e-6
    assert bool((coupling.plan >= 0).all())


@pytest.mark.parametrize("name", FIXED + FREE)
def test_all_zero_costs_transport_everything_anyhow(name):
    coupling = solve(name, torch.zeros(6, 4))
    assert coupling.cost_value == 0
    assert float(coupling.plan.sum()) == pytest.approx(1)


def test_emd_recovers_a_permutation_and_then_push_is_pull():
    x = features(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    coupling = solve("emd", ground_cost("euclidean", from_weights(x, x[order])))
    permutation = torch.zeros(40, 40, dtype=torch.float64)
    permutation[order, torch.arange(40)] = 1
    torch.testing.assert_close(coupling.push(), permutation)
    torch.testing.assert_close(coupling.pull(), permutation)
    torch.testing.assert_close(coupling.push().T @ x, x[order])
    assert coupling.entropy == pytest.approx(math.log(40))


@pytest.mark.parametrize("shape", [(24, 12), (12, 24)])
def test_push_and_pull_differ_by_the_ratio_of_sizes_when_not_square(shape):
    n, m = shape
    coupling = solve("emd", random_cost(n, m))
    torch.testing.assert_close(coupling.pull(), coupling.push() * n / m)
    assert rel(coupling.pull(), coupling.push()) > 0.3


def test_push_is_not_pull_when_marginals_are_skewed():
    coupling = solve("emd", random_cost(10, 10), random_marginal(10, 1), random_marginal(10, 2))
    assert rel(coupling.pull(), coupling.push()) > 0.1


def test_emd_does_not_care_for_the_unit_of_the_cost():
    cost = random_cost(12, 8)
    plans = [solve("emd", cost * unit).plan for unit in (1e-18, 1.0, 1e18)]
    torch.testing.assert_close(plans[0], plans[1])
    torch.testing.assert_close(plans[2], plans[1])


def test_sinkhorn_softens_with_epsilon_and_hardens_to_emd_without():
    cost = random_cost(20, 12)
    mu, nu = random_marginal(20, 1), random_marginal(12, 2)
    exact = solve("emd", cost, mu, nu)
    epsilons = (1e-3, 1e-2, 0.1, 1.0, 1e3)
    soft = [solve("sinkhorn", cost, mu, nu, epsilon=epsilon, max_iterations=20_000) for epsilon in epsilons]
    entropies = [coupling.entropy for coupling in soft]
    costs = [coupling.cost_value for coupling in soft]
    assert entropies == sorted(entropies) and entropies[0] >= exact.entropy - 1e-6
    assert costs == sorted(costs) and costs[0] == pytest.approx(exact.cost_value, rel=1e-4)
    assert float((soft[0].plan - exact.plan).abs().sum()) < 1e-2
    torch.testing.assert_close(soft[-1].plan, mu[:, None] * nu[None, :], rtol=1e-2, atol=1e-8)


def test_sinkhorn_does_not_underflow():
    cost = 1e4 + 1e4 * random_cost(12, 12)
    epsilon, median = 1e-4, float(cost.median())
    # The largest kernel entry is far below the smallest float64: a plain Sinkhorn divides zero by zero.
    assert np.exp(-float(cost.min()) / (epsilon * median)) == 0
    coupling = solve("sinkhorn", cost, epsilon=epsilon)
    exact = ot.emd2(uniform(12).numpy(), uniform(12).numpy(), cost.numpy())
    assert coupling.cost_value == pytest.approx(exact, rel=1e-5)
    assert coupling.marginal_error < 1e-6


def test_semirelaxed_is_the_nearest_target_and_the_limit_of_the_entropic_one():
    cost = random_cost(30, 7)
    mu = random_marginal(30, 4)
    hard = solve("semirelaxed", cost, mu)
    expected = torch.nn.functional.one_hot(cost.argmin(1), 7) * mu[:, None]
    torch.testing.assert_close(hard.plan, expected)
    torch.testing.assert_close(solve("semirelaxed-entropic", cost, mu, epsilon=1e-6).plan, hard.plan)
    assert hard.cost_value <= solve("emd", cost, mu).cost_value


def test_the_scale_of_epsilon_is_the_median_cost_unless_given():
    cost = random_cost(9, 6)
    given = solve("sinkhorn", cost, epsilon=0.1 * float(cost.median()), scale=1.0)
    torch.testing.assert_close(given.plan, solve("sinkhorn", cost, epsilon=0.1).plan)


def test_emd_that_is_stopped_early_raises_by_name():
    with pytest.raises(CouplingError, match=r"layer 2 ffn: emd did not converge in 10 iterations"):
        solve("emd", random_cost(40, 30), max_iterations=1, space="layer 2 ffn")


def test_emd_is_tried_again_with_more_iterations_before_it_is_given_up():
    cost = random_cost(20, 10)
    enough = next(k for k in range(1, 10_000) if _emd_converges(cost, k))
    assert enough > 5
    torch.testing.assert_close(solve("emd", cost, max_iterations=enough // 5).plan, solve("emd", cost).plan)


def _emd_converges(cost: torch.Tensor, iterations: int) -> bool:
    n, m = cost.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, log = ot.emd(uniform(n).numpy(), uniform(m).numpy(), cost.numpy(), numItermax=iterations, log=True)
    return log["warning"] is None


def test_sinkhorn_that_is_stopped_early_warns_or_raises_by_name():
    with pytest.raises(CouplingError, match="layer 2 ffn: the sinkhorn coupling misses its marginals"):
        solve("sinkhorn", random_cost(40, 30), epsilon=1e-3, max_iterations=1, space="layer 2 ffn")
    with pytest.warns(CouplingWarning, match="layer 2 ffn: the sinkhorn coupling misses its marginals"):
        coupling = solve("sinkhorn", random_cost(40, 30), epsilon=0.2, max_iterations=5, space="layer 2 ffn")
    assert 1e-6 < coupling.marginal_error < 1e-2


@pytest.mark.parametrize("cost", [torch.full((2, 2), math.nan), torch.full((2, 2), math.inf), torch.ones(3)])
def test_costs_that_cannot_be_are_refused_by_name(cost):
    with pytest.raises(CouplingError, match="heads"):
        solve("emd", cost, space="heads")


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan])
def test_epsilon_must_be_positive(epsilon):
    with pytest.raises(CouplingError, match="epsilon"):
        solve("sinkhorn", torch.ones(2, 2), epsilon=epsilon)


# Couplings


def test_identity_changes_nothing():
    coupling = identity_coupling(5)
    torch.testing.assert_close(coupling.push(), torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(coupling.pull(), torch.eye(5, dtype=torch.float64))


def test_selection_is_partial_transport():
    coupling = from_selection(torch.tensor([4, 0]), 5)
    chosen = torch.zeros(5, 2, dtype=torch.float64)
    chosen[4, 0] = chosen[0, 1] = 1
    torch.testing.assert_close(coupling.push(), chosen)
    torch.testing.assert_close(coupling.pull(), chosen)
    assert coupling.summary()["untransported"] == 3
    assert coupling.marginal_error == 0


def test_a_source_that_is_selected_twice_shares_its_readers():
    coupling = from_selection(torch.tensor([1, 1]), 3)
    torch.testing.assert_close(coupling.push()[1], torch.tensor([1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(coupling.pull()[1], torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_a_target_that_receives_nothing_is_a_zero_column():
    coupling = solve("semirelaxed", torch.tensor([[0.0, 1, 1], [0, 1, 1], [1, 1, 0]]))
    torch.testing.assert_close(coupling.push().sum(0), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(coupling.pull().sum(1), torch.ones(3, dtype=torch.float64))
    assert coupling.summary()["empty_targets"] == 1


@pytest.mark.parametrize("index", [[-1], [3], []])
def test_indices_out_of_range_are_refused(index):
    with pytest.raises(CouplingError, match=r"heads: .* indices"):
        from_selection(torch.tensor(index, dtype=torch.long), 3, space="heads")


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        ([[math.nan, 0.0], [0.0, 0.5]], "not finite"),
        ([[0.6, -0.1], [-0.1, 0.6]], "negative"),
        ([[0.4, 0.0], [0.0, 0.5]], "misses its marginals"),
        ([[0.5, 0.0]], "does not fit"),
    ],
)
def test_a_plan_that_is_no_coupling_is_refused_by_name(plan, complaint):
    with pytest.raises(CouplingError, match=f"layer 0 heads.*{complaint}"):
        Coupling(torch.tensor(plan, dtype=torch.float64), uniform(2), uniform(2), None, "test", "layer 0 heads")


def test_mass_that_a_marginal_denies_is_an_error():
    half = torch.tensor([1.0, 0.0], dtype=torch.float64)
    with pytest.raises(CouplingError, match="misses"):
        Coupling(torch.eye(2, dtype=torch.float64) / 2, half, uniform(2), None, "test", "space")


def test_summary_is_plain_json():
    summary = solve("emd", random_cost(6, 3), space="residual").summary()
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["space"], summary["solver"], summary["source"], summary["target"]) == ("residual", "emd", 6, 3)


# The scaling of non-square maps (the FFN with duplicated neurons)


class Ffn:
    """y = W2 gelu(W1 x + b1) with the hidden neurons of a base of 12 repeated and shuffled."""

    def __init__(self, copies: list[int]):
        generator = torch.Generator().manual_seed(0)
        self.base = torch.randn(len(copies), 9, generator=generator, dtype=torch.float64)  # [W1 | b1]
        which = torch.repeat_interleave(torch.arange(len(copies)), torch.tensor(copies))
        which = which[torch.randperm(len(which), generator=generator)]
        self.first = self.base[which]
        self.second = torch.randn(5, len(copies), generator=generator, dtype=torch.float64)[:, which]
        self.x = torch.cat([torch.randn(100, 8, generator=generator, dtype=torch.float64), torch.ones(100, 1)], 1)

    def run(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(self.x @ first.T) @ second.T

    def error(self, writer: torch.Tensor, reader: torch.Tensor) -> float:
        return rel(self.run(writer.T @ self.first, self.second @ reader), self.run(self.first, self.second))

    def couple(self, name: str) -> Coupling:
        return solve(name, ground_cost("euclidean", from_weights(self.first, self.base)))


def test_duplicated_neurons_are_merged_exactly_by_push_and_pull_only():
    ffn = Ffn([2] * 12)
    coupling = ffn.couple("emd")
    assert ffn.error(coupling.push(), coupling.pull()) < 1e-12
    assert ffn.error(coupling.pull(), coupling.pull()) > 0.3  # one matrix, rows normalised
    assert ffn.error(coupling.push(), coupling.push()) == pytest.approx(0.5)  # one matrix, columns normalised


def test_uneven_duplication_needs_free_target_marginals():
    ffn = Ffn([1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 4, 7])
    uniform_targets, free_targets = ffn.couple("emd"), ffn.couple("semirelaxed")
    assert ffn.error(uniform_targets.push(), uniform_targets.pull()) > 0.3
    assert ffn.error(free_targets.push(), free_targets.pull()) < 1e-12


def test_a_narrow_ffn_moves_into_a_wide_one_exactly():
    ffn = Ffn([1] * 12)
    wide = ffn.base.repeat_interleave(2, 0)
    coupling = solve("emd", ground_cost("euclidean", from_weights(ffn.first, wide)))
    assert coupling.push().shape == (12, 24)
    assert ffn.error(coupling.push(), coupling.pull()) < 1e-12


def test_a_sketch_is_the_plan_in_small():
    from compressor.transport.sketch import levels, sketch

    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    plan = torch.eye(8, dtype=torch.float64)[:, order] / 8
    found = sketch(plan, by_source=True)
    assert (found["rows"], found["columns"]) == (8, 8)
    assert levels(found) == bytes(255 * (i == j) for i in range(8) for j in range(8))
    large = sketch(torch.full((200, 100), 1 / 20000))
    assert (large["rows"], large["columns"]) == (64, 64)
    assert levels(large) == bytes([255] * 64 * 64)
    assert levels(sketch(torch.zeros(3, 2))) == bytes(6)


def test_a_sketch_shows_the_least_mass_and_puts_empty_targets_last():
    from compressor.transport.sketch import levels, sketch

    plan = torch.tensor([[0.0, 1e-9, 0.0], [0.0, 0.0, 1.0]])
    assert levels(sketch(plan)) == bytes([0, 1, 0, 0, 0, 255])
    assert levels(sketch(plan, by_source=True)) == bytes([1, 0, 0, 0, 255, 0])
