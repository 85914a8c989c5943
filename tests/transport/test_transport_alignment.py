"""Preparations, cost scales, partial and unbalanced transport, mixes of couplings, and the aligner that joins them."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch

from compressor.errors import CouplingError, UserError
from compressor.transport import (
    COST_SCALES,
    PREPARATIONS,
    SOLVERS,
    Coupling,
    CouplingOptions,
    Moments,
    cosine,
    euclidean,
    from_importance,
    from_selection,
    from_weights,
    ground_cost,
    identity_coupling,
    mixed,
    prepared,
    solve,
    squared,
    uniform,
)
from compressor.transport.unbalanced import unbalanced_sinkhorn

LEAVING = ("partial", "unbalanced")
EPSILONS = (1e-300, 1e-12, 1e-3, 1e-2, 1.0, 10.0, 1e12, 1e300)


def features(n: int, k: int = 12, seed: int = 0) -> torch.Tensor:
    """Rows with means and scales of their own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, k, dtype=torch.float64, generator=generator)
    return x * (0.5 + torch.rand(n, 1, generator=generator)) + torch.randn(n, 1, generator=generator)


def random_moments(n: int = 9, m: int = 6) -> Moments:
    return from_weights(features(n), features(m, seed=1))


def random_marginal(n: int, seed: int) -> torch.Tensor:
    return from_importance(torch.rand(n, generator=torch.Generator().manual_seed(seed)) + 0.05)


def random_cost(n: int = 20, m: int = 12) -> torch.Tensor:
    """Distances where the first m sources are close to the targets, each to its own."""
    y = features(m)
    x = torch.cat([y + 0.3 * features(m, seed=1), features(n, seed=2)])[:n]
    return torch.cdist(x, y)


def same(one: Moments, other: Moments) -> None:
    for name in ("xx", "yy", "xy", "x", "y"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)
    assert one.count == other.count


# Preparations


def test_preparing_moments_is_preparing_features():
    x, y = features(9), features(6, seed=1)
    moments = from_weights(x, y)
    assert prepared("raw", moments) is moments

    def check(name, prepare):
        same(prepared(name, moments), from_weights(prepare(x), prepare(y)))

    check("centred", lambda z: z - z.mean(1, keepdim=True))
    check("standardised", lambda z: (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=0))
    check("normalised", lambda z: z / z.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("name", PREPARATIONS.names())
def test_preparing_twice_changes_nothing_more(name):
    once = prepared(name, random_moments())
    same(prepared(name, once), once)


@pytest.mark.parametrize("name", PREPARATIONS.names())
@pytest.mark.parametrize("cost", ["correlation", "cosine"])
def test_moments_may_be_means_over_tokens(name, cost):
    x, y = features(9, k=50), features(6, k=50, seed=1)
    sums = from_weights(x, y)
    means = Moments(sums.xx / 50, sums.yy / 50, sums.xy / 50, x.mean(1), y.mean(1))
    torch.testing.assert_close(ground_cost(cost, prepared(name, means)), ground_cost(cost, prepared(name, sums)))


def test_what_is_constant_or_dead_stays_zero_whatever_its_size():
    x = torch.stack([torch.full((30,), 1e4 / 3), torch.zeros(30), torch.linspace(-1, 1, 30)]).double()
    of = prepared("standardised", from_weights(x, x))
    torch.testing.assert_close(of.xx, torch.tensor([0.0, 0.0, 30.0], dtype=torch.float64))
    torch.testing.assert_close(of.xy, torch.diag(of.xx))
    of = prepared("normalised", from_weights(x, x))
    torch.testing.assert_close(of.xx, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    assert all(bool(torch.isfinite(part).all()) for part in (of.xx, of.yy, of.xy))
    constant = torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(ground_cost("correlation", from_weights(x, x)), constant)


def test_without_means_nothing_is_centred_and_the_error_says_so():
    moments = Moments(*(getattr(random_moments(), name) for name in ("xx", "yy", "xy")))
    for name in ("centred", "standardised"):
        with pytest.raises(UserError, match="cannot be centred without their means"):
            prepared(name, moments)
    with pytest.raises(UserError, match="cannot be centred without their means"):
        ground_cost("correlation", moments)
    assert prepared("normalised", moments).x is None


# Costs


def test_correlation_is_blind_to_the_mean_and_the_scale_of_a_coordinate():
    x, y = features(9), features(6, seed=1)
    cost = ground_cost("correlation", from_weights(x, y))
    expected = 1 - torch.corrcoef(torch.cat([x, y]))[:9, 9:]
    torch.testing.assert_close(cost, expected)
    shift, scale = torch.randn(9, 1, dtype=torch.float64), torch.rand(9, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(ground_cost("correlation", from_weights(scale * x + shift, y)), cost)
    torch.testing.assert_close(ground_cost("correlation", from_weights(-x, y)), 2 - cost)


def test_distances_of_prepared_features_are_angles():
    moments = random_moments()
    standardised = ground_cost("squared", prepared("standardised", moments))
    torch.testing.assert_close(standardised, 2 * moments.count * ground_cost("correlation", moments))
    normalised = ground_cost("squared", prepared("normalised", moments))
    torch.testing.assert_close(normalised, 2 * ground_cost("cosine", moments))
    torch.testing.assert_close(ground_cost("cosine", prepared("centred", moments)), ground_cost("correlation", moments))


@pytest.mark.parametrize("cost", [squared, euclidean, cosine])
def test_costs_are_also_plain_functions_of_inner_products(cost):
    moments = random_moments()
    expected = ground_cost(cost.__name__, moments)
    torch.testing.assert_close(cost(moments.xx, moments.yy, moments.xy), expected)


# Cost scales


def test_the_scales_are_what_they_are_called():
    cost = torch.tensor([[0.0, 1.0, 8.0]])
    assert [COST_SCALES.get(name)(cost) for name in ("median", "mean", "max", "none")] == [1, 3, 8, 1]
    mostly_zero = torch.tensor([[0.0, 0.0, 0.0, 4.0]])
    assert [COST_SCALES.get(name)(mostly_zero) for name in ("median", "mean", "max")] == [1, 1, 4]
    assert {COST_SCALES.get(name)(torch.zeros(2, 3)) for name in COST_SCALES.names()} == {1}


@pytest.mark.filterwarnings("ignore::compressor.errors.CouplingWarning")
@pytest.mark.parametrize("normalise", COST_SCALES.names())
@pytest.mark.parametrize("solver", SOLVERS.names())
def test_plans_do_not_care_for_the_unit_of_the_costs_unless_nothing_scales_them(solver, normalise):
    cost = random_cost()
    cost = cost / cost.mean()
    plan, larger = (solve(solver, unit * cost, normalise=normalise).plan for unit in (1.0, 16.0))
    reads_the_unit = normalise == "none" and solver not in ("emd", "semirelaxed", "partial")
    assert (float((plan - larger).abs().sum()) > 1e-3) == reads_the_unit


def test_to_scale_epsilon_is_to_divide_the_costs():
    cost = random_cost()
    for solver in ("sinkhorn", "unbalanced", "semirelaxed-entropic"):
        divided = solve(solver, cost / cost.max(), epsilon=0.1, relaxation=2.0, normalise="none")
        scaled = solve(solver, cost, epsilon=0.1, relaxation=2.0, normalise="max")
        torch.testing.assert_close(scaled.plan, divided.plan, rtol=1e-6, atol=1e-12)


# Partial and unbalanced transport


@pytest.mark.parametrize("shape", [(7, 7), (24, 12), (9, 20), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("name", LEAVING)
@pytest.mark.parametrize("skewed", [False, True])
def test_marginals_are_the_plans_own_and_sum_to_one(name, shape, skewed):
    n, m = shape
    mu, nu = (random_marginal(n, 1), random_marginal(m, 2)) if skewed else (uniform(n), uniform(m))
    coupling = solve(name, random_cost(n, m), mu, nu)
    for total in (coupling.plan.sum(), coupling.mu.sum(), coupling.nu.sum()):
        assert float(total) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(coupling.plan.sum(1), coupling.mu, rtol=1e-6, atol=0)
    torch.testing.assert_close(coupling.plan.sum(0), coupling.nu, rtol=1e-6, atol=0)
    torch.testing.assert_close(coupling.pull().sum(1), (coupling.mu > 0).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(coupling.push().sum(0), (coupling.nu > 0).double(), rtol=1e-6, atol=0)
    assert coupling.summary()["transported"] == coupling.transported <= 1 + 1e-9
    if name == "partial":
        assert coupling.transported == pytest.approx(0.9)
        assert bool((0.9 * coupling.mu <= mu + 1e-9).all() and (0.9 * coupling.nu <= nu + 1e-9).all())


def test_partial_transport_moves_what_is_cheapest():
    cost = torch.full((4, 4), 5.0)
    cost.diagonal().copy_(torch.arange(4.0))
    coupling = solve("partial", cost, mass=0.5)
    torch.testing.assert_close(coupling.plan, torch.diag(torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64)))
    assert coupling.cost_value == pytest.approx(0.5)
    summary = coupling.summary()
    assert (summary["untransported"], summary["empty_targets"], summary["transported"]) == (2, 2, 0.5)
    # More mass never comes at a lower price for each unit of it.
    prices = [solve("partial", random_cost(), mass=mass).cost_value for mass in (0.2, 0.5, 0.8, 1.0)]
    assert prices == sorted(prices)


@pytest.mark.parametrize("shape", [(12, 12), (49, 10), (7, 3)])
def test_partial_transport_of_all_mass_is_emd(shape):
    cost = random_cost(*shape)
    exact = solve("emd", cost)
    torch.testing.assert_close(solve("partial", cost, mass=1.0).plan, exact.plan, rtol=1e-12, atol=0)
    nearly = solve("partial", cost, mass=1 - 1e-7)
    assert nearly.cost_value == pytest.approx(exact.cost_value, rel=1e-5)
    torch.testing.assert_close(nearly.plan, exact.plan, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cost", [torch.zeros(4, 3), torch.full((4, 3), 7.0), random_cost(4, 3) - 30])
def test_partial_transport_moves_its_share_whatever_the_costs(cost):
    assert solve("partial", cost, mass=0.4).transported == pytest.approx(0.4)


def test_partial_transport_does_not_care_for_the_unit_of_the_cost():
    cost = random_cost()
    plans = [solve("partial", cost * unit, mass=0.5).plan for unit in (1e-18, 1.0, 1e18)]
    torch.testing.assert_close(plans[0], plans[1])
    torch.testing.assert_close(plans[2], plans[1])


def test_rounding_is_no_mass():
    """What the simplex leaves of a dear coordinate is 1e-17, and push would make a full column of it."""
    for mass in (0.3, 0.5, 0.7, 0.9):
        coupling = solve("partial", random_cost(60, 30), mass=mass)
        for marginal in (coupling.mu, coupling.nu):
            assert float(marginal[marginal > 0].min()) > 1e-9


def test_partial_transport_that_is_stopped_early_raises_by_name():
    with pytest.raises(CouplingError, match="heads: partial did not converge in 10 iterations"):
        solve("partial", random_cost(40, 30), max_iterations=1, space="heads")


@pytest.mark.parametrize("epsilon", [0.02, 0.2, 5.0])
def test_unbalanced_transport_held_to_its_marginals_is_sinkhorn(epsilon):
    cost, mu, nu = random_cost(), random_marginal(20, 1), random_marginal(12, 2)
    soft = solve("sinkhorn", cost, mu, nu, epsilon=epsilon, max_iterations=20_000)
    far = [
        float((solve("unbalanced", cost, mu, nu, epsilon=epsilon, relaxation=relaxation).plan - soft.plan).abs().sum())
        for relaxation in (1.0, 1e2, 1e4, 1e6)
    ]
    assert far == sorted(far, reverse=True) and far[0] > 1e-2 and far[-1] < 1e-5


@pytest.mark.filterwarnings("ignore::compressor.errors.CouplingWarning")
def test_unbalanced_transport_free_of_its_marginals_goes_where_it_is_cheapest():
    cost = random_cost(12, 12)
    cost[0, 0] = 0.0
    held = [solve("unbalanced", cost, epsilon=1e-2, relaxation=relaxation) for relaxation in (0.01, 0.1, 1.0, 10.0)]
    assert [one.transported for one in held] == sorted(one.transported for one in held)
    assert [one.cost_value for one in held] == sorted(one.cost_value for one in held)
    assert float(held[0].plan[0, 0]) > 0.9


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
@pytest.mark.parametrize("relaxation", [0.1, 1.0, 30.0])
def test_unbalanced_plans_are_minima(epsilon, relaxation):
    """Any change of the plan that keeps its signs costs more: the gradient of the objective is zero."""
    cost, mu, nu = random_cost(), random_marginal(20, 1), random_marginal(12, 2)
    coupling = solve("unbalanced", cost, mu, nu, epsilon=epsilon, relaxation=relaxation, scale=1.0)
    plan = (coupling.transported * coupling.plan).requires_grad_()

    def divergence(p, q):
        return (torch.xlogy(p, p / q) - p + q).sum()

    objective = (plan * cost).sum() + epsilon * divergence(plan, torch.outer(mu, nu))
    objective = objective + relaxation * (divergence(plan.sum(1), mu) + divergence(plan.sum(0), nu))
    (gradient,) = torch.autograd.grad(objective, plan)
    assert float(gradient.abs().max()) < 1e-5 * relaxation


@pytest.mark.parametrize("relaxation", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 10.0])
def test_unbalanced_transport_is_robust(epsilon, relaxation):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coupling = solve("unbalanced", random_cost(60, 30), epsilon=epsilon, relaxation=relaxation)
    assert bool(torch.isfinite(coupling.push()).all()) and bool(torch.isfinite(coupling.pull()).all())
    assert coupling.marginal_error < 1e-2


def test_a_sweep_finds_the_mass_that_it_would_take_plain_iterations_a_million_sweeps_to_find():
    """Where all costs are equal, the potentials are constants, and the best of these is known at once."""
    cost, marginal = torch.ones(5, 5, dtype=torch.float64), uniform(5)
    plan, mu, nu = unbalanced_sinkhorn(cost, marginal, marginal, 1e3, [(1e-3, 4)], tolerance=0.0)
    assert float(plan.sum()) == pytest.approx(math.exp(-1 / (2e3 + 1e-3)), abs=1e-9)
    torch.testing.assert_close(plan.sum(1), mu)
    torch.testing.assert_close(plan.sum(0), nu)


@pytest.mark.parametrize(("name", "option"), [("partial", {"mass": 1e-9}), ("unbalanced", {"relaxation": 1e-2})])
def test_transport_of_next_to_nothing_is_an_error_that_says_what_to_change(name, option):
    with pytest.raises(
        CouplingError, match=f"ffn: {name} transport moves next to nothing .*raise {next(iter(option))}"
    ):
        solve(name, 5 + 1e-3 * random_cost(), space="ffn", **option)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("solver", SOLVERS.names())
@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200])
def test_maps_are_finite_or_refused_in_one_line_at_any_epsilon(solver, epsilon, unit):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            coupling = solve(solver, unit * random_cost(6, 4), epsilon=epsilon, max_iterations=100)
        except CouplingError as error:
            assert "\n" not in str(error)
        else:
            assert bool(torch.isfinite(coupling.push()).all()) and bool(torch.isfinite(coupling.pull()).all())


def test_maps_are_finite_where_a_target_gets_less_than_a_normal_number():
    coupling = solve("semirelaxed-entropic", torch.tensor([[0.0, 1.0]]), epsilon=1 / 715, scale=1.0)
    assert 0 < float(coupling.nu[1]) < 1e-308
    torch.testing.assert_close(coupling.push(), torch.tensor([[1.0, 0.0]], dtype=torch.float64))


# Mixes


def random_pair(n: int = 10, m: int = 6) -> tuple[Coupling, Coupling]:
    cost = random_cost(n, m)
    return solve("emd", cost), solve("sinkhorn", cost.flip(0), epsilon=0.5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, torch.linspace(0.1, 0.9, 6)])
def test_mixes_are_couplings_and_keep_a_shared_target_marginal(share):
    one, other = random_pair()
    mix = mixed(one, other, share)
    torch.testing.assert_close(mix.plan, share * one.plan + (1 - share) * other.plan)
    torch.testing.assert_close(mix.push(), share * one.push() + (1 - share) * other.push())
    torch.testing.assert_close(mix.nu, one.nu)
    torch.testing.assert_close(mix.plan.sum(1), mix.mu, rtol=1e-6, atol=0)
    torch.testing.assert_close(mix.pull().sum(1), torch.ones(10, dtype=torch.float64), rtol=1e-6, atol=0)
    assert (mix.transported, mix.cost_value, mix.space) == (pytest.approx(1), None, one.space)


def test_mixes_of_couplings_with_other_target_marginals_sum_to_one():
    cost = random_cost(10, 6)
    one, other = solve("semirelaxed", cost), solve("partial", cost, mass=0.5)
    mix = mixed(one, other, torch.linspace(0.1, 0.9, 6))
    assert float(mix.plan.sum()) == pytest.approx(1) and float(mix.nu.sum()) == pytest.approx(1)
    assert mix.transported == pytest.approx(0.75)
    torch.testing.assert_close(mixed(one, other, 0.25).nu, 0.25 * one.nu + 0.75 * other.nu)


def test_a_source_without_mass_in_one_coupling_has_it_from_the_other():
    chosen = from_selection(torch.tensor([2, 0]), 3)
    spread = solve("sinkhorn", random_cost(3, 2))
    assert bool((mixed(chosen, spread, 0.5).mu > 0).all())
    torch.testing.assert_close(mixed(chosen, spread, 1.0).mu, chosen.mu)


def test_what_cannot_be_mixed_is_refused():
    one, other = random_pair()
    for share in (-0.1, 1.1, math.nan, torch.full((5,), 0.5), torch.full((6,), 2.0)):
        with pytest.raises(CouplingError, match=r"shares of a mix must be in \[0, 1\], one or 6"):
            mixed(one, other, share)
    with pytest.raises(CouplingError, match="cannot be mixed"):
        mixed(one, identity_coupling(6), 0.5)
    swapped = replace(identity_coupling(2), plan=torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=torch.float64))
    with pytest.raises(CouplingError, match="leaves 1 sources without mass"):
        mixed(identity_coupling(2), swapped, torch.tensor([0.0, 1.0]))


# The aligner


def test_the_aligner_prepares_measures_and_solves():
    moments, mu, nu = random_moments(), random_marginal(9, 1), random_marginal(6, 2)
    aligner = CouplingOptions(
        cost="cosine", preparation="centred", normalise="max", solver="unbalanced", epsilon=0.2, relaxation=3.0
    )
    aligner.check()
    found = aligner.couple(moments, mu, nu, space="layer 3 ffn")
    cost = ground_cost("correlation", moments)
    expected = solve("unbalanced", cost, mu, nu, epsilon=0.2, relaxation=3.0, scale=float(cost.max()))
    torch.testing.assert_close(found.plan, expected.plan)
    assert (found.space, found.solver) == ("layer 3 ffn", "unbalanced")
    half = CouplingOptions(solver="partial", mass=0.5).couple(moments, space="s")
    assert half.transported == pytest.approx(0.5)


def test_the_default_aligner_is_emd_of_distances():
    moments = random_moments()
    expected = solve("emd", ground_cost("euclidean", moments))
    assert torch.equal(CouplingOptions().couple(moments, space="residual").plan, expected.plan)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"cost": "x"}, r"unknown ground cost 'x' \(known: squared, euclidean, cosine, correlation\)"),
        (
            {"preparation": "x"},
            r"unknown preparation of features 'x' \(known: raw, centred, standardised, normalised\)",
        ),
        ({"normalise": "x"}, r"unknown cost scale 'x' \(known: median, mean, max, none\)"),
        ({"solver": "x"}, r"unknown transport solver 'x' \(known: emd, .*partial, unbalanced\)"),
        ({"epsilon": 0.0}, "epsilon must be finite and above 0, not 0"),
        ({"epsilon": math.inf}, "epsilon must be finite and above 0, not inf"),
        ({"relaxation": -1.0}, "relaxation must be finite and above 0, not -1"),
        ({"mass": 0.0}, "mass must be above 0 and at most 1, not 0"),
        ({"mass": 1.5}, "mass must be above 0 and at most 1, not 1.5"),
        ({"mass": math.nan}, "mass must be above 0 and at most 1, not nan"),
    ],
)
def test_options_that_cannot_be_are_refused(option, message):
    aligner = CouplingOptions(**option)
    with pytest.raises(UserError, match=message):
        aligner.check()
    with pytest.raises(UserError, match=message):
        aligner.couple(random_moments(), space="residual")
