"""Rotary heads of fewer channels: pairs of similar frequency become one.

A logit is Re Σ_p q_p* k_p exp(iω_p Δ); a student's pair gets the best rank-one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.anatomy.rotary_pairs import frequencies, pairs
from compressor.fusion.maps.attention.low_rank import low_rank_product


@dataclass(frozen=True, eq=False)
class RotaryPairs:
    """The teachers' pairs that each student's pair replaces.

    Attributes:
        layout: how channels are paired.
        teachers: number of pairs.
        members: nearest first.
    """

    layout: str
    teachers: int
    members: tuple[tuple[int, ...], ...]


def match_frequencies(teachers: Sequence[nn.Module], student: nn.Module, layout: str) -> RotaryPairs | None:
    """Match pairs by frequency; None if the teachers' differ."""
    teacher_frequencies, student_frequencies = [frequencies(model) for model in teachers], frequencies(student)
    first = teacher_frequencies[0]
    if first is None or student_frequencies is None:
        return None
    if any(f is None or f.shape != first.shape or not torch.allclose(f, first) for f in teacher_frequencies):
        return None
    distance = (first.log()[:, None] - student_frequencies.log()[None, :]).abs().cpu()
    nearest = distance.argmin(dim=1)
    orders = [distance[:, pair].argsort(stable=True) for pair in range(len(student_frequencies))]
    members = tuple(tuple(order[nearest[order] == pair].tolist()) for pair, order in enumerate(orders))
    return RotaryPairs(layout, len(first), members)


def select_pairs(d: int, channels: int, matched: RotaryPairs) -> Tensor:
    """Select each pair's nearest [d, channels], as a baseline."""
    selection = torch.zeros(d, channels, dtype=torch.float64)
    ends = zip(
        pairs(matched.layout, matched.teachers), pairs(matched.layout, len(matched.members)), strict=True
    )  # fmt: skip
    for teacher_channels, student_channels in ends:
        for pair, members in enumerate(matched.members):
            selection[teacher_channels[list(members[:1])], student_channels[pair]] = 1.0
    start, new_start = 2 * matched.teachers, 2 * len(matched.members)
    if start < d:
        rest = torch.linspace(start, d - 1, channels - new_start).round().long()
        selection[rest, torch.arange(new_start, channels)] = 1.0
    return selection


def rotary_product(queries: Tensor, keys: Tensor, channels: int, matched: RotaryPairs) -> tuple[Tensor, Tensor]:
    """Maps A, B [d, channels] that keep rotated products best.

    Args:
        queries, keys: second moments [d, d] before rotation.
    """
    d, start, new_start = len(queries), 2 * matched.teachers, 2 * len(matched.members)
    a, b = torch.zeros(d, channels, dtype=torch.float64), torch.zeros(d, channels, dtype=torch.float64)
    first, second = pairs(matched.layout, matched.teachers)
    new_first, new_second = pairs(matched.layout, len(matched.members))
    complex_queries, complex_keys = _complex(queries, first, second), _complex(keys, first, second)
    for pair, members in enumerate(matched.members):
        if not members:
            continue
        index = torch.tensor(members)
        block = index[:, None], index[None, :]
        products = low_rank_product(complex_queries[block], complex_keys[block], 1)
        for matrix, product in zip((a, b), products, strict=True):
            column = product[:, 0]
            # y = Σ conj(c_p) x_p, written out in real and imaginary parts.
            matrix[first[index], new_first[pair]] = column.real
            matrix[second[index], new_first[pair]] = column.imag
            matrix[first[index], new_second[pair]] = -column.imag
            matrix[second[index], new_second[pair]] = column.real
    if start < d:
        unrotated = low_rank_product(queries[start:, start:], keys[start:, start:], channels - new_start)
        for matrix, product in zip((a, b), unrotated, strict=True):
            matrix[start:, new_start:] = product
    return a, b


def _complex(moments: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """E[z zᴴ] of z = first + i·second, [n, n]."""

    def block(rows: Tensor, columns: Tensor) -> Tensor:
        return moments[rows[:, None], columns[None, :]]

    return torch.complex(block(first, first) + block(second, second), block(second, first) - block(first, second))
