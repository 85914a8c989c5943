"""Rotary heads of fewer channels: every pair of the student's stands for the teachers' pairs that turn about as fast.

A head's logit is the real part of Σ_p q_p* k_p exp(iω_p Δ) over its pairs p, with Δ the distance of the two tokens.
The student has fewer frequencies, which its config gives it.  Each of its pairs gets the complex product of rank one
that is nearest to the sum of the products of the teachers' pairs nearest to it in frequency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.anatomy.rotary_pairs import frequencies, pairs
from compressor.fusion.maps.attention.low_rank import low_rank_product


@dataclass(frozen=True, eq=False)
class Turning:
    """Which of the teachers' pairs each of the student's pairs stands for.

    Attributes:
        layout: how channels are paired.
        teachers: how many pairs their heads have.
        members: per pair of the student, pairs of the teachers, the nearest in frequency first; may be none.
    """

    layout: str
    teachers: int
    members: tuple[tuple[int, ...], ...]


def turning(teachers: Sequence[nn.Module], student: nn.Module, layout: str) -> Turning | None:
    """How pairs of heads that become smaller go together; None if the teachers' frequencies are not alike."""
    theirs, own = [frequencies(model) for model in teachers], frequencies(student)
    first = theirs[0]
    if first is None or own is None:
        return None
    if any(other is None or other.shape != first.shape or not torch.allclose(other, first) for other in theirs):
        return None
    apart = (first.log()[:, None] - own.log()[None, :]).abs()
    nearest = apart.argmin(dim=1)
    order = [apart[:, pair].argsort(stable=True) for pair in range(len(own))]
    members = tuple(tuple(found[nearest[found] == pair].tolist()) for pair, found in enumerate(order))
    return Turning(layout, len(first), members)


def kept_pairs(d: int, channels: int, turns: Turning) -> Tensor:
    """A selection [d, channels] of the teachers' pair that is nearest to each of the student's, as a baseline."""
    chosen = torch.zeros(d, channels, dtype=torch.float64)
    for theirs, own in zip(pairs(turns.layout, turns.teachers), pairs(turns.layout, len(turns.members)), strict=True):
        for pair, members in enumerate(turns.members):
            chosen[theirs[list(members[:1])], own[pair]] = 1.0
    start, new = 2 * turns.teachers, 2 * len(turns.members)
    if start < d:
        chosen[torch.linspace(start, d - 1, channels - new).round().long(), torch.arange(new, channels)] = 1.0
    return chosen


def turning_product(queries: Tensor, keys: Tensor, channels: int, turns: Turning) -> tuple[Tensor, Tensor]:
    """Maps A, B [d, channels] of queries and keys whose products, turned, are nearest to those of q and k, turned.

    Args:
        queries, keys: second moments [d, d] of queries and keys before they are turned, taken as independent.
        channels: of the student's head.
        turns: which pairs go together.
    """
    d, rest = len(queries), 2 * turns.teachers
    a, b = torch.zeros(d, channels, dtype=torch.float64), torch.zeros(d, channels, dtype=torch.float64)
    first, second = pairs(turns.layout, turns.teachers)
    new_first, new_second = pairs(turns.layout, len(turns.members))
    complex_queries, complex_keys = _complex(queries, first, second), _complex(keys, first, second)
    for pair, members in enumerate(turns.members):
        if not members:
            continue
        own = torch.tensor(members)
        block = own[:, None], own[None, :]
        for matrix, kept in zip((a, b), low_rank_product(complex_queries[block], complex_keys[block], 1), strict=True):
            column = kept[:, 0]
            # y = Σ conj(c_p) x_p, written out in real and imaginary parts.
            matrix[first[own], new_first[pair]] = column.real
            matrix[second[own], new_first[pair]] = column.imag
            matrix[first[own], new_second[pair]] = -column.imag
            matrix[second[own], new_second[pair]] = column.real
    if rest < d:
        still = low_rank_product(queries[rest:, rest:], keys[rest:, rest:], channels - 2 * len(turns.members))
        for matrix, kept in zip((a, b), still, strict=True):
            matrix[rest:, 2 * len(turns.members) :] = kept
    return a, b


def _complex(moments: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """E[z zᴴ] of z = first + i·second channels, [n, n]."""

    def block(rows: Tensor, columns: Tensor) -> Tensor:
        return moments[rows[:, None], columns[None, :]]

    return torch.complex(block(first, first) + block(second, second), block(second, first) - block(first, second))
