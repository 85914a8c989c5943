"""Orthogonal least squares: which units, or blocks of them, explain a target best together.

A unit's gain is what the squared error of the target falls by if it is added (Chen, Billings and Luo, 1989,
https://doi.org/10.1080/00207178908953472).  Gains are kept by a pivoted Cholesky factorisation G ≈ FᵀF of the units'
moments, and looked at lazily: the gains of units outside a shortlist are not computed again before its best falls
behind them (Minoux, 1978, https://doi.org/10.1007/BFb0006528).  That is exact for up to `SHORTLIST` units, and for more
where no gain rises by what was chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Ridge of the regressions that choose units, relative to the mean variance.
SELECTION_RIDGE = 1e-4
#: Units whose gains are followed choice by choice, and most choices before all others' gains are brought up to date.
SHORTLIST, CHOSEN_TOGETHER = 256, 128


def pursue_units(gram: Tensor, cross: Tensor, count: int) -> Tensor:
    """The units that reduce the error of a regression most, chosen one after another.

    Args:
        gram: second moments of N units [N, N], float64.
        cross: their moments with the target [N, m].
        count: units to choose, at most N.

    Returns:
        Their numbers in ascending order, [count].
    """
    size = len(gram)
    floor = SELECTION_RIDGE * gram.diagonal().mean().clamp(min=1e-30)
    variance, power = gram.diagonal() + floor, cross.square().sum(1)
    # F [count, N], and what each choice explains of the target [count, m]: gram - FᵀF and cross - Fᵀ explains are left.
    factor, explains = gram.new_zeros(count, size), cross.new_zeros(count, cross.shape[1])
    free = torch.ones(size, dtype=torch.bool)
    done = 0
    while done < count:
        gain = torch.where(free, power / variance.clamp(min=floor), -1.0)
        best = gain.topk(min(SHORTLIST + 1, int(free.sum())))
        behind = float(best.values[-1]) if len(best.values) > SHORTLIST else -1.0
        listed = best.indices[:SHORTLIST].sort().values
        before, explained = factor[:done], explains[:done]
        left = gram[listed[:, None], listed] - before[:, listed].T @ before[:, listed]
        left.diagonal().add_(floor)
        target = cross[listed] - before[:, listed].T @ explained
        places, triangle = _choose_listed(left, target @ target.T, floor, behind, min(CHOSEN_TOGETHER, count - done))
        chosen, stop = listed[places], done + len(places)
        rows = gram[chosen] - before[:, chosen].T @ before
        rows[torch.arange(len(chosen)), chosen] += floor
        factor[done:stop] = torch.linalg.solve_triangular(triangle, rows, upper=False)
        explains[done:stop] = torch.linalg.solve_triangular(triangle, target[places], upper=False)
        columns, news = factor[done:stop], explains[done:stop]
        # |c - Σ fₜ eₜ|² of every unit's moments c with what the target still lacks.
        overlap = news @ cross.T - (news @ explained.T) @ before
        power -= (columns * (2 * overlap - (news @ news.T) @ columns)).sum(0)
        variance -= columns.square().sum(0)
        free[chosen] = False
        done = stop
    return (~free).nonzero().flatten()


def _choose_listed(left: Tensor, powers: Tensor, floor: Tensor, behind: float, most: int) -> tuple[Tensor, Tensor]:
    """Choices among listed units while one of them gains at least `behind`.

    Args:
        left: what is left of their moments [S, S].
        powers: inner products of what is left of their moments with the target [S, S].

    Returns:
        Places in the list [n], and the triangle L [n, n] with left[places, places] = LLᵀ.
    """
    places: list[int] = []
    columns: list[Tensor] = []
    taken = torch.zeros(len(left), dtype=torch.bool)
    while len(places) < min(most, len(left)):
        gain = torch.where(taken, -2.0, powers.diagonal() / left.diagonal().clamp(min=floor))
        place = int(gain.argmax())
        if places and gain[place] < behind:
            break
        scale = left[place, place].clamp(min=floor).sqrt()
        column, overlap = left[:, place] / scale, powers[:, place] / scale
        square = overlap[place] / scale
        powers = powers - torch.outer(column, overlap - square * column) - torch.outer(overlap, column)
        left = left - torch.outer(column, column)
        places.append(place)
        columns.append(column)
        taken[place] = True
    index = torch.tensor(places)
    return index, torch.stack(columns)[:, index].T.tril()


def pursue_blocks(gram: Tensor, cross: Tensor, count: int, block: int) -> Tensor:
    """The blocks of units (heads) that reduce the error of a regression most, chosen one after another.

    Args:
        gram: second moments of N blocks [N · block, N · block], float64.
        cross: their moments with the target [N · block, m].

    Returns:
        Their numbers in ascending order, [min(count, N)].
    """
    total = len(gram) // block
    if count >= total:
        return torch.arange(total)
    # Heads without output have a Gram matrix of zeros.
    gram = gram + SELECTION_RIDGE * gram.diagonal().mean().clamp(min=1e-30) * torch.eye(len(gram), dtype=gram.dtype)
    cross, free = cross.clone(), torch.ones(total, dtype=torch.bool)
    for _ in range(count):
        left = gram.reshape(total, block, total, block).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        candidates = free.nonzero().flatten()
        roots = torch.linalg.cholesky(left[candidates])
        explained = torch.linalg.solve_triangular(roots, cross.reshape(total, block, -1)[candidates], upper=False)
        best = int(explained.square().sum((1, 2)).argmax())
        chosen = int(candidates[best])
        columns = torch.linalg.solve_triangular(roots[best], gram[chosen * block : (chosen + 1) * block], upper=False)
        gram.addmm_(columns.T, columns, alpha=-1)
        cross.addmm_(columns.T, explained[best], alpha=-1)
        free[chosen] = False
    return (~free).nonzero().flatten()
