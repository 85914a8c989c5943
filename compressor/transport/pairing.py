"""Pairs of what several teachers have in common, by partial transport with a price.

Every coordinate has mass one, none has to be transported, and leaving a pair apart costs as much as a distance of
`price`: the problem of Caffarelli & McCann 2010 (https://doi.org/10.4007/annals.2010.171.673) in its Lagrangian form.
With unit masses an extreme plan is a matching, however many coordinates there are on either side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def paired(gram: Tensor, sizes: Sequence[int], price: float) -> Tensor:
    """The group of each coordinate, [N] int64: paired ones share one, with at most one coordinate of each teacher.

    Groups are numbered in the order of their first coordinates. Teachers join one after the other, each matched with
    the means of the groups so far. The distance of x and y is ‖x − y‖² / (‖x‖² + ‖y‖²), 1 if they are uncorrelated.

    Args:
        gram: joint inner products [N, N].
        sizes: coordinates per teacher.
        price: distance from which two are not paired, in (0, 1].
    """
    # Takes half a second to import.
    from scipy.optimize import linear_sum_assignment

    groups = torch.arange(len(gram))
    start = sizes[0]
    for size in sizes[1:]:
        rows = torch.arange(start, start + size)
        names, members = groups[:start].unique(return_inverse=True)
        means = torch.zeros(len(names), start, dtype=gram.dtype)
        means[members, torch.arange(start)] = 1.0
        means /= means.sum(1, keepdim=True)
        inner = means @ gram[:start, rows]
        norms = ((means @ gram[:start, :start]) * means).sum(1)
        total = norms[:, None] + gram.diagonal()[rows][None, :]
        distance = torch.where(total > 0, 1 - 2 * inner / total.clamp(min=1e-30), 1.0)
        gain = (price - distance).clamp(min=0)
        left, right = map(torch.from_numpy, linear_sum_assignment(gain.numpy(), maximize=True))
        worth = gain[left, right] > 0
        groups[rows[right[worth]]] = names[left[worth]]
        start += size
    return groups.unique(return_inverse=True)[1]
