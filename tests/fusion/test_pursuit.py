"""Pursuit of units and blocks: each choice is the one that helps most; of many units a shortlist is followed."""

from __future__ import annotations

import pytest
import torch

from compressor.fusion.maps import pursuit
from compressor.fusion.maps.pursuit import SELECTION_RIDGE, pursue_blocks, pursue_units


def moments(units: int, targets: int, seed: int, copies: bool = False):
    """Moments of correlated units [N, N] and with a target [N, m]."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(4 * units, units // 3, generator=draw, dtype=torch.float64)
    mixed = hidden @ torch.randn(units // 3, units, generator=draw, dtype=torch.float64)
    values = torch.relu(mixed + torch.randn(mixed.shape, generator=draw, dtype=torch.float64))
    if copies:
        values[:, units // 2 :] = values[:, : units // 2].flip(1)
    values -= values.mean(0)
    target = values @ torch.randn(units, targets, generator=draw, dtype=torch.float64)
    return values.T @ values / len(values), values.T @ target / len(values)


def explained(gram, cross, rows):
    """What a regression on some rows explains of the target."""
    ridge = SELECTION_RIDGE * gram.diagonal().mean() * torch.eye(len(rows), dtype=gram.dtype)
    return float((cross[rows] * torch.linalg.solve(gram[rows][:, rows] + ridge, cross[rows])).sum())


def greedily(gram, cross, count, block=1):
    """The definition: each time a regression for every candidate."""

    def rows(chosen):
        return torch.cat([torch.arange(unit * block, (unit + 1) * block) for unit in chosen])

    chosen: list[int] = []
    for _ in range(count):
        left = [unit for unit in range(len(gram) // block) if unit not in chosen]
        chosen.append(max(left, key=lambda unit: explained(gram, cross, rows([*chosen, unit]))))
    return sorted(chosen)


@pytest.mark.parametrize("seed", range(3))
def test_each_unit_is_the_one_that_helps_most(seed, monkeypatch):
    monkeypatch.setattr(pursuit, "CHOSEN_TOGETHER", 4)
    gram, cross = moments(48, 5, seed)
    assert pursue_units(gram, cross, 17).tolist() == greedily(gram, cross, 17)


@pytest.mark.parametrize("seed", range(3))
def test_a_short_list_chooses_about_as_well(seed, monkeypatch):
    """A unit outside of it may gain from what was chosen, so that not every choice is the same."""
    monkeypatch.setattr(pursuit, "SHORTLIST", 9)
    gram, cross = moments(48, 5, seed)
    best = explained(gram, cross, torch.tensor(greedily(gram, cross, 17)))
    assert explained(gram, cross, pursue_units(gram, cross, 17)) > 0.99 * best


@pytest.mark.parametrize("seed", range(3))
def test_each_block_is_the_one_that_helps_most(seed):
    gram, cross = moments(48, 20, seed)
    assert pursue_blocks(gram, cross, 5, 4).tolist() == greedily(gram, cross, 5, 4)


def test_of_two_copies_one_is_chosen():
    gram, cross = moments(60, 80, 0, copies=True)
    chosen = pursue_units(gram, cross, 30)
    assert len({min(unit, 89 - unit) if unit >= 30 else unit for unit in chosen.tolist()}) == 30


def test_all_units_can_be_chosen():
    gram, cross = moments(24, 3, 0)
    assert pursue_units(gram, cross, 24).tolist() == list(range(24))
    assert pursue_blocks(gram, cross, 6, 4).tolist() == list(range(6))


def test_silent_units_come_last():
    gram, cross = moments(24, 3, 0)
    gram[:8], gram[:, :8], cross[:8] = 0, 0, 0
    assert pursue_units(gram, cross, 16).tolist() == list(range(8, 24))
    assert pursue_blocks(gram, cross, 4, 4).tolist() == [2, 3, 4, 5]
