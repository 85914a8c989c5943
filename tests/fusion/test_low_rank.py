"""Products of low rank: the nearest there are, with scales shared out evenly."""

from __future__ import annotations

import pytest
import torch

from compressor.fusion.maps.attention.low_rank import low_rank_product, low_rank_written

CHANNELS = 6


def _moments(seed: int) -> torch.Tensor:
    drawn = torch.randn(40, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn.T @ drawn / 40


def _drawn(columns: int) -> torch.Tensor:
    return torch.randn(CHANNELS, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def _missed(push: torch.Tensor, pull: torch.Tensor, carried: torch.Tensor, outgoing: torch.Tensor) -> float:
    """Mean square of z·W - z·push·pullᵀ·W."""
    error = (torch.eye(CHANNELS, dtype=torch.float64) - push @ pull.T) @ outgoing
    return float(torch.trace(error.T @ carried @ error))


@pytest.mark.parametrize("rank", [2, 4, CHANNELS])
def test_what_is_written_is_missed_as_little_as_any_rank_allows(rank: int) -> None:
    carried, outgoing = _moments(0), _drawn(10)
    push, pull = low_rank_written(carried, outgoing, rank)
    values, vectors = torch.linalg.eigh(carried)
    left = torch.linalg.svdvals((vectors * values.sqrt()) @ vectors.T @ outgoing)[rank:]
    assert _missed(push, pull, carried, outgoing) == pytest.approx(float(left.square().sum()), abs=1e-9)


def test_values_and_what_reads_them_have_the_same_scale() -> None:
    carried, outgoing = _moments(0), _drawn(10)
    push, pull = low_rank_written(carried, outgoing, 4)
    values = (push.T @ carried @ push).diagonal()
    assert values.tolist() == pytest.approx((pull.T @ outgoing).square().sum(1).tolist())
    assert values.max() > 2 * values.min()


def test_channels_that_nothing_reads_stay_finite() -> None:
    carried, outgoing = _moments(0), _drawn(2)
    push, pull = low_rank_written(carried, outgoing, 4)
    assert torch.isfinite(push).all() and torch.isfinite(pull).all()
    assert _missed(push, pull, carried, outgoing) == pytest.approx(0, abs=1e-9)


def test_queries_and_keys_have_the_same_scale() -> None:
    queries, keys = _moments(0), _moments(1)
    a, b = low_rank_product(queries, keys, 3)
    assert (a.T @ queries @ a).diagonal().tolist() == pytest.approx((b.T @ keys @ b).diagonal().tolist())
