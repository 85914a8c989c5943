"""Coordinates that norms scale unlike others keep an axis of their own; the others are rotated."""

import pytest
import torch

import compressor.fusion.maps  # noqa: F401
from compressor.fusion.maps.outliers import outlier_coordinates
from compressor.fusion.maps.residual import RESIDUAL_MAPS, ResidualProblem


def problem(scales, m=8, teachers=1):
    n = scales[0].shape[1]
    states = torch.randn(400, n * teachers, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states = states @ torch.randn(n * teachers, n * teachers, generator=torch.Generator().manual_seed(1)).double()
    return ResidualProblem(
        states.T @ states / 400, [n] * teachers, [1 / teachers] * teachers, m, False, False, scales=scales
    )


def scales_with(outliers, n=16, norms=3):
    scales = 0.6 + 0.02 * torch.randn(norms, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scales[:, list(outliers)] = torch.tensor([1.4, 0.01, 1.0], dtype=torch.float64)[: len(outliers)]
    return scales


def test_outliers_are_found_by_their_scales():
    assert outlier_coordinates(scales_with((3, 9)), 4).tolist() == [3, 9]
    assert outlier_coordinates(scales_with((3, 9, 12)), 2).tolist() == [3, 9]
    assert not len(outlier_coordinates(scales_with(()), 4))
    assert not len(outlier_coordinates(torch.zeros(0, 16), 4))


def test_the_map_commutes_with_norms_far_better_than_principal_components():
    scales, leaks = scales_with((3, 9)), {}
    for name in ("principal", "outliers"):
        (mapping,) = RESIDUAL_MAPS.get(name)(problem([scales])).maps
        scaled = mapping.push.T @ torch.diag(scales[0]) @ mapping.push
        assert torch.allclose(mapping.push.T @ mapping.push, torch.eye(8, dtype=torch.float64), atol=1e-9)
        leaks[name] = (scaled - torch.diag(scaled.diagonal())).norm()
    assert leaks["outliers"] < 0.2 * leaks["principal"]


@pytest.mark.parametrize("teachers", [1, 2])
def test_without_outliers_it_is_principal_components(teachers):
    given = problem([scales_with(())] * teachers, teachers=teachers)
    maps = [RESIDUAL_MAPS.get(name)(given).maps for name in ("principal", "outliers")]
    assert all(torch.equal(first.push, second.push) for first, second in zip(*maps, strict=True))


def test_an_outlier_of_several_teachers_is_kept_for_all_that_have_it():
    given = problem([scales_with((3, 9)), scales_with((3,))], m=12, teachers=2)
    maps = RESIDUAL_MAPS.get("outliers")(given).maps
    push = torch.cat([mapping.push for mapping in maps])
    alone = [int((column.abs() > 1e-9).sum()) for column in push.T]
    # Two columns of what both know as 3, one of what the first alone knows as 9.
    assert sorted(alone)[:3] == [1, 2, 2]
    assert push[[3, 19]].norm() ** 2 == pytest.approx(1, abs=1e-6)
