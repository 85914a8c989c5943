"""Ridge regression: held-out errors are those of explicit solutions, and blocks of outputs change nothing."""

import pytest
import torch

from compressor.fusion.build import ridge
from compressor.fusion.build.ridge import RIDGES, fit_ridge
from compressor.fusion.calibration.statistics import Regression


def pairs(samples, seed):
    torch.manual_seed(seed)
    inputs = torch.randn(samples, 12).double() @ torch.diag(torch.logspace(0, -3, 12).double()) + 1
    outputs = inputs @ torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).double()
    return inputs, outputs + 0.3 * torch.randn(samples, 5) + 2


def sums(inputs, outputs, origin):
    total = Regression(12, 5, origin)
    total.add(inputs, outputs)
    return total


def solution(inputs, outputs, prior, share, intercept):
    """By the normal equations of centred samples."""
    means = (inputs.mean(0), outputs.mean(0)) if intercept else (0, 0)
    u, y = inputs - means[0], outputs - means[1]
    gram = u.T @ u
    damped = gram + share * gram.diagonal().mean() * torch.eye(12).double()
    weight = prior + torch.linalg.solve(damped, u.T @ (y - u @ prior))
    return weight, means[1] - means[0] @ weight if intercept else torch.zeros(5)


@pytest.mark.parametrize("intercept", [True, False])
def test_the_least_held_out_error_of_all_ridges_and_priors_is_taken(intercept):
    train, held_out = pairs(40, 1), pairs(15, 2)
    origin = (train[0][0], train[1][0]) if intercept else None
    prior = torch.randn(12, 5)
    fit = fit_ridge(sums(*train, origin), sums(*held_out, origin), prior, intercept=intercept)
    spread = (held_out[1] - held_out[1].mean(0)).square().sum()
    if not intercept:
        spread = (held_out[1]).square().sum() - len(held_out[1]) * held_out[1].mean(0).square().sum()
    errors = {}
    for share in RIDGES:
        for kept in (True, False):
            start = prior.double() if kept else torch.zeros(12, 5).double()
            weight, bias = solution(*train, start, share, intercept)
            errors[share, kept] = float((held_out[1] - held_out[0] @ weight - bias).square().sum() / spread)
    best = min(errors, key=errors.get)
    assert (fit.ridge, fit.prior) == best
    assert fit.error == pytest.approx(errors[best], rel=1e-8)


def test_outputs_are_solved_in_blocks(monkeypatch):
    train, held_out = pairs(40, 1), pairs(15, 2)
    origin, prior = (train[0][0], train[1][0]), torch.randn(12, 5)

    def fit():
        return fit_ridge(sums(*train, origin), sums(*held_out, origin), prior, intercept=True)

    whole = fit()
    monkeypatch.setattr(ridge, "BLOCK_ENTRIES", 24)
    blocks = fit()
    assert blocks.ridge == whole.ridge and blocks.error == pytest.approx(whole.error, rel=1e-9)
    torch.testing.assert_close(blocks.weight, whole.weight, rtol=1e-9, atol=1e-12)


def test_sums_of_wide_rows_are_those_of_whole_products():
    """Wider than one block, and no multiple of it."""
    torch.manual_seed(0)
    inputs, outputs = torch.randn(50, 900), torch.randn(50, 30)
    total = Regression(900, 30)
    for _ in range(2):
        total.add(inputs, outputs)
    assert torch.equal(total.gram, total.gram.T)
    for found, rows in ((total.gram, inputs), (total.cross, outputs)):
        expected = 2 * inputs.double().T @ rows.double()
        assert (found - expected).norm() < 1e-6 * expected.norm()


def test_inputs_that_are_all_alike_but_for_rounding_do_not_blow_weights_up():
    """As the queries of a detector's first layer, which differ neither by image nor by place."""
    torch.manual_seed(0)
    rows, outputs = (3 * torch.randn(size) for size in (12, 5))
    rounding = 1e-7 * torch.randn(40, 12)
    inputs, targets = rows * (1 + rounding), outputs * (1 + 1e-7 * torch.randn(40, 5))
    origin = (inputs.mean(0), targets.mean(0))
    fit = fit_ridge(sums(inputs, targets, origin), sums(inputs, targets, origin), torch.randn(12, 5), intercept=True)
    assert fit.weight.abs().max() < 100 and fit.bias is not None
    torch.testing.assert_close(rows.double() @ fit.weight + fit.bias, outputs.double(), rtol=1e-4, atol=1e-4)
