"""Channels inside heads that become smaller: of queries and keys those that keep QKᵀ, of values those that keep VO.

A head's logits are a bilinear form of rank d in the residual stream, and what it writes is a linear map of rank d; both
are nearly always of lower rank than that.  So a student of half the width loses less by as many heads of half the size
than by half as many heads.  Where positions are rotary, channels have a place and this is not possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.anatomy import Map, Role, Space, map_key
from compressor.fusion.moments import HeadStatistics


def narrowable(spaces: Sequence[Space], student: Space) -> bool:
    """Whether the student's heads are the teachers' with fewer channels each, which are free to be mixed."""
    shapes = {(space.head_dim, space.heads // space.groups) for space in spaces}
    if student.rotary or len(shapes) != 1:
        return False
    ((channels, per_group),) = shapes
    return student.head_dim < channels and student.heads // student.groups == per_group


def narrowed(
    maps: Sequence[dict[str, Map]], spaces: Sequence[Space], student: Space, statistics: HeadStatistics, *, spaced: bool
) -> tuple[dict[str, Map], ...]:
    """Maps to heads of the teachers' size, carried on to the student's smaller ones.

    Args:
        maps: per teacher, the maps of query, key, value and output to as many heads of the teachers' size.
        spaces: each teacher's attention space.
        student: the student's.
        statistics: moments of queries, keys and head outputs, all teachers pooled.
        spaced: keep evenly spaced channels, as a baseline, instead of those that matter.
    """
    d, m = spaces[0].head_dim, student.head_dim
    pooled = {role: torch.cat([own[map_key(student.name, role)].push for own in maps]) for role in Role}
    queries = _diagonal(pooled[Role.QUERY].T @ statistics.queries @ pooled[Role.QUERY], d)
    keys = _diagonal(pooled[Role.KEY].T @ statistics.keys @ pooled[Role.KEY], d)
    carry = _diagonal(pooled[Role.OUTPUT].T @ statistics.carry @ pooled[Role.OUTPUT], d)
    readers = torch.cat([own[map_key(student.name, Role.OUTPUT)].pull for own in maps]).T @ statistics.outgoing
    per_group = student.heads // student.groups
    scale = math.sqrt(m / d) if student.scaled else 1.0
    found: dict[Role, list[tuple[Tensor, Tensor]]] = {role: [] for role in Role if role is not Role.HEADS}
    for group in range(student.groups):
        heads = range(group * per_group, (group + 1) * per_group)
        if spaced:
            kept = torch.eye(d, dtype=torch.float64)[:, torch.linspace(0, d - 1, m).round().long()]
            products, values = (kept, kept), (kept, kept)
        else:
            products = low_rank_product(torch.stack([queries[h] for h in heads]).sum(0), keys[group], m)
            written = torch.cat([readers[h * d : (h + 1) * d] for h in heads], dim=1)
            values = low_rank_written(torch.stack([carry[h] for h in heads]).sum(0), written, m)
        query = products[0] * scale
        found[Role.QUERY] += [(query, _inverse(query))] * per_group
        found[Role.KEY].append((products[1], _inverse(products[1])))
        found[Role.VALUE].append(values)
        found[Role.OUTPUT] += [values] * per_group
    blocks = {
        role: [torch.block_diag(*(pair[side] for pair in pairs)) for side in (0, 1)] for role, pairs in found.items()
    }
    carried: list[dict[str, Map]] = []
    for own in maps:
        new = {map_key(student.name, Role.HEADS): own[map_key(student.name, Role.HEADS)]}
        for role, (push, pull) in blocks.items():
            one = own[map_key(student.name, role)]
            new[map_key(student.name, role)] = Map(one.push @ push, one.pull @ pull)
        carried.append(new)
    return tuple(carried)


def low_rank_product(queries: Tensor, keys: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Maps A, B [d, rank] of queries and keys whose products (Aᵀq)ᵀ(Bᵀk) are nearest to qᵀk.

    Args:
        queries, keys: second moments [d, d] of queries and keys, taken as independent.
        rank: channels left; more than d are filled with zeros.
    """
    left, left_inverse = _roots(queries)
    right, right_inverse = _roots(keys)
    u, s, vt = torch.linalg.svd(left @ right)
    kept = min(rank, len(s))
    a = left_inverse @ u[:, :kept] * s[:kept].sqrt()
    b = right_inverse @ vt[:kept].T * s[:kept].sqrt()
    return padded(a, rank), padded(b, rank)


def low_rank_written(carried: Tensor, outgoing: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Push and pull [d, rank] of a head's values z whose z·push·pullᵀ·W is nearest to z·W.

    Args:
        carried: second moments [d, d] of z.
        outgoing: W [d, n], what reads them.
        rank: channels left, at most d.
    """
    root, inverse = _roots(carried)
    u = torch.linalg.svd(root @ outgoing, full_matrices=outgoing.shape[1] < rank)[0][:, :rank]
    return inverse @ u, root @ u


def padded(matrix: Tensor, columns: int) -> Tensor:
    """The matrix with columns of zeros added, so that it has as many as asked."""
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1]))


def _diagonal(moments: Tensor, size: int) -> list[Tensor]:
    """The blocks [size, size] on the diagonal."""
    return [moments[k : k + size, k : k + size] for k in range(0, len(moments), size)]


def _inverse(push: Tensor) -> Tensor:
    """The pull that reads back what a push kept, by least squares."""
    return torch.linalg.pinv(push, rtol=1e-9).T


def _roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric root of a moment matrix, and the root's inverse."""
    values, vectors = torch.linalg.eigh(moments)
    values = values.clamp(min=1e-9 * float(values.max().clamp(min=1e-30)))
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
