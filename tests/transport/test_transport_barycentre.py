"""Free-support barycentres from a Gram matrix alone."""

from __future__ import annotations

import time

import pytest
import torch

from compressor.errors import CouplingError, CouplingWarning, UserError
from compressor.transport import (
    Barycentre,
    barycentre,
    farthest_first,
    from_importance,
    solve,
    solvers,
    uniform,
)
from compressor.transport.barycentre import _means
from compressor.transport.coupling import TIGHT

SOLVERS = ("emd", "sinkhorn", "semirelaxed", "semirelaxed-entropic")


def features(n: int, k: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shuffled(x: torch.Tensor, seed: int) -> torch.Tensor:
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]


def run(teachers: list[torch.Tensor], m: int, **options: object) -> tuple[Barycentre, torch.Tensor]:
    """The barycentre and its support points [m, k]."""
    pooled = torch.cat(teachers)
    found = barycentre(pooled @ pooled.T, [len(x) for x in teachers], m, **options)  # type: ignore[arg-type]
    return found, found.weights.T @ pooled


def same_points(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-9) -> bool:
    """Whether two sets of points are equal in any order, each used once."""
    distance = torch.cdist(found, expected)
    return bool((distance.amin(1) < atol).all()) and len(set(distance.argmin(1).tolist())) == len(expected)


@pytest.mark.parametrize("solver", ["emd", "semirelaxed"])
def test_duplicated_and_permuted_coordinates_of_two_teachers_give_the_base_back(solver):
    base = features(12)
    teachers = [shuffled(base.repeat(2, 1), 1), shuffled(base.repeat(3, 1), 2)]
    found, support = run(teachers, 12, solver=solver)
    assert same_points(support, base)
    assert found.objective[-1] == pytest.approx(0, abs=1e-12)
    for coupling, x in zip(found.couplings, teachers, strict=True):
        torch.testing.assert_close(coupling.push().T @ x, support)
        torch.testing.assert_close(coupling.pull() @ support, x)


def test_uneven_duplicates_are_recovered_with_free_targets():
    base = features(6)
    teacher = base.repeat_interleave(torch.tensor([1, 2, 3, 1, 5, 4]), 0)
    _, support = run([shuffled(teacher, 1), shuffled(teacher, 2)], 6, free_targets=True)
    assert same_points(support, base)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_objective_never_rises_and_the_weights_are_convex_combinations(solver):
    found, _ = run([features(30), features(20, seed=1)], 9, solver=solver, epsilon=0.1)
    trace = torch.tensor(found.objective, dtype=torch.float64)
    assert len(trace) > 1 and bool((trace.diff() <= 1e-7).all())
    assert bool((found.weights >= 0).all())
    torch.testing.assert_close(found.weights.sum(0), torch.ones(9, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("solver", ["emd", "sinkhorn"])
def test_with_shared_marginals_the_support_is_the_mean_of_what_is_pushed(solver):
    alphas = [0.3, 0.7]
    found, _ = run([features(30), features(20, seed=1)], 9, solver=solver, alphas=alphas)
    pushed = torch.cat([a * coupling.push() for a, coupling in zip(alphas, found.couplings, strict=True)])
    torch.testing.assert_close(found.weights, pushed, rtol=1e-6, atol=1e-9)


def test_the_objective_is_the_mean_transport_cost_to_the_support():
    teachers = [features(30), features(20, seed=1)]
    found, support = run(teachers, 9, alphas=[1, 3], tolerance=0.0)
    costs = [solve("emd", torch.cdist(x, support) ** 2).cost_value for x in teachers]
    assert found.objective[-1] == pytest.approx(0.25 * costs[0] + 0.75 * costs[1])


def test_free_targets_without_entropy_are_weighted_kmeans():
    x = features(60, k=3)
    mass = from_importance(torch.rand(60, generator=torch.Generator().manual_seed(5)) + 0.1)
    hard, support = run([x], 8, marginals=[mass], free_targets=True, tolerance=0.0)
    centres = farthest_first(x @ x.T, mass, 8).T @ x
    for _ in range(50):  # Lloyd's algorithm on the features themselves
        labels = torch.cdist(x, centres).argmin(1)
        centres = torch.stack([(mass[:, None] * x)[labels == j].sum(0) / mass[labels == j].sum() for j in range(8)])
    torch.testing.assert_close(support, centres)
    inertia = float((mass * torch.cdist(x, centres).amin(1) ** 2).sum())
    assert hard.objective[-1] == pytest.approx(inertia)
    soft, _ = run([x], 8, marginals=[mass], solver="sinkhorn", free_targets=True, epsilon=1e-5)
    torch.testing.assert_close(soft.weights, hard.weights)


def test_the_order_of_equal_teachers_does_not_matter():
    a, b = features(24), features(18, seed=1)
    for solver in SOLVERS:
        forth, back = run([a, b], 8, solver=solver)[0], run([b, a], 8, solver=solver)[0]
        assert forth.objective[-1] == pytest.approx(back.objective[-1], rel=1e-6, abs=1e-9)
        torch.testing.assert_close(forth.couplings[0].plan, back.couplings[1].plan, rtol=1e-5, atol=1e-6)


def test_a_teacher_of_weight_zero_is_coupled_but_moves_nothing():
    a, b = features(24), features(18, seed=1)
    alone, support = run([a], 8)
    both, same = run([b, a], 8, alphas=[0, 1])
    torch.testing.assert_close(same, support)
    assert both.objective[-1] == pytest.approx(alone.objective[-1])
    assert both.couplings[0].marginal_error < 1e-9


@pytest.mark.parametrize(("solver", "m"), [("emd", 10), ("semirelaxed", 8), ("semirelaxed-entropic", 8)])
def test_narrow_teachers_go_into_a_wide_support(solver, m):
    x = features(5)
    found, support = run([x, shuffled(x, 1)], m, solver=solver, epsilon=1e-3)
    assert bool((torch.cdist(support, x).amin(1) < 1e-6).all())
    assert all(coupling.plan.shape == (5, m) for coupling in found.couplings)
    assert found.objective[-1] < 1e-9


def test_a_support_point_that_loses_all_its_mass_moves_to_the_coordinate_that_is_served_worst():
    cost = torch.tensor([[0.0, 9], [1, 9], [4, 9]], dtype=torch.float64)
    coupling = solve("semirelaxed", cost)
    weights = _means([coupling], [1.0], uniform(3), cost)
    torch.testing.assert_close(weights.T, torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0, 0, 1]], dtype=torch.float64))


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_point_is_the_mean(solver):
    x = features(7)
    _, support = run([x], 1, solver=solver)
    torch.testing.assert_close(support[0], x.mean(0))
    _, support = run([x[:1]], 1, solver=solver)
    torch.testing.assert_close(support, x[:1])


def test_coordinates_that_are_all_the_same_are_no_problem():
    for solver in SOLVERS:
        found, _ = run([torch.zeros(6, 2, dtype=torch.float64)], 3, solver=solver)
        assert found.objective[-1] <= 0


def test_it_is_deterministic():
    teachers = [features(24), features(18, seed=1)]
    first, second = run(teachers, 8, solver="sinkhorn")[0], run(teachers, 8, solver="sinkhorn")[0]
    assert torch.equal(first.weights, second.weights) and first.objective == second.objective


def test_farthest_first_takes_the_largest_then_the_farthest_and_duplicates_once():
    x = torch.tensor([[1.0, 0], [0, 0], [5, 0], [5, 0], [0, 3]], dtype=torch.float64)
    chosen = farthest_first(x @ x.T, torch.full((5,), 0.2, dtype=torch.float64), 3).argmax(0)
    assert chosen.tolist() == [2, 4, 0]


def test_what_does_not_fit_is_refused_by_name():
    gram = torch.eye(6, dtype=torch.float64)
    for sizes, m, options in (
        ([3, 2], 2, {}),
        ([3, 3], 0, {}),
        ([6, 0], 2, {}),
        ([], 2, {}),
        ([3, 3], 2, {"alphas": [1.0]}),
        ([3, 3], 2, {"alphas": [0.0, 0.0]}),
        ([3, 3], 2, {"alphas": [1.0, -1.0]}),
        ([3, 3], 2, {"alphas": [1.0, float("nan")]}),
        ([3, 3], 2, {"marginals": [torch.ones(3) / 3]}),
        ([3, 3], 2, {"nu": torch.ones(3) / 3}),
    ):
        with pytest.raises(CouplingError, match="encoder"):
            barycentre(gram, sizes, m, space="encoder", **options)
    with pytest.raises(UserError, match="known: emd"):
        barycentre(gram, [3, 3], 2, solver="lloyd")


@pytest.mark.parametrize("solver", ["partial", "unbalanced"])
@pytest.mark.parametrize("free", [False, True])
def test_solvers_that_leave_mass_behind_are_refused(solver, free):
    with pytest.raises(UserError, match=f"the barycentre takes emd or sinkhorn, not {solver}.* need an anchor"):
        barycentre(torch.eye(6, dtype=torch.float64), [3, 3], 2, solver=solver, free_targets=free)


def test_only_the_couplings_that_are_returned_are_warned_of(monkeypatch, recwarn):
    monkeypatch.setattr(solvers, "SINKHORN_ITERATIONS", 40)
    found, _ = run([features(32), features(32, seed=1)], 8, solver="sinkhorn", epsilon=0.05, space="encoder")
    inexact = [coupling for coupling in found.couplings if coupling.marginal_error > TIGHT]
    assert inexact and len(found.objective) > 2
    warned = [warning for warning in recwarn if issubclass(warning.category, CouplingWarning)]
    assert len(warned) == len(inexact)
    assert all("encoder: the sinkhorn coupling misses" in str(warning.message) for warning in warned)


@pytest.mark.parametrize("solver", SOLVERS)
def test_it_is_fast(solver):
    x = features(384, k=400)
    start = time.perf_counter()
    run([x[:192], x[192:]], 96, solver=solver)
    assert time.perf_counter() - start < 5  # 0.2 s on a quiet core; the bound only catches another order of growth
