"""Depth: which of a teacher's layers stand for each of the student's.

With one residual map for all depths, depth is only a choice of checkpoints.  Of the deepest teacher the layers that
change the residual stream least are skipped first; every other teacher is aligned to it by monotone dynamic
programming on 1 - linear CKA, ends pinned.  What a skipped layer added is left to the refit of the next one, which is
fitted to the residual stream behind both.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.anatomy import Anatomy
from compressor.anatomy.trace import logits_of
from compressor.fusion.masks import Masks
from compressor.fusion.samples import take, without_labels
from compressor.fusion.sources import Route, Source
from compressor.fusion.statistics import rows
from compressor.fusion.walk import Spot, watching

#: Samples that the layers are compared on.
SAMPLES = 32


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Linear centred kernel alignment of activations [T, n] and [T, m], in [0, 1] (Kornblith et al., 2019)."""
    one, other = one - one.mean(dim=0), other - other.mean(dim=0)
    shared = (one.T @ other).square().sum()
    scale = (one.T @ one).norm() * (other.T @ other).norm()
    return float(shared / scale.clamp(min=1e-30))


def keep_influential(influence: Sequence[float], kept: int) -> list[int]:
    """The `kept` most influential layers in their order; the last one is always among them.

    Args:
        influence: of every layer, how much it changes the residual stream.
        kept: how many to keep.
    """
    last = len(influence) - 1
    others = sorted(range(last), key=lambda layer: influence[layer], reverse=True)[: kept - 1]
    return sorted([*others, last])


def align(distance: Tensor) -> list[int]:
    """Monotone assignment of the student's checkpoints to a teacher's, by dynamic programming.

    Args:
        distance: [student's checkpoints, teacher's checkpoints], both in order.

    Returns:
        For each of the student's checkpoints the teacher's, never decreasing; the last goes to the last.
    """
    count, size = distance.shape
    best = torch.full((count, size), float("inf"), dtype=torch.float64)
    came = torch.zeros(count, size, dtype=torch.long)
    best[0] = distance[0]
    for i in range(1, count):
        for j in range(size):
            came[i, j] = int(best[i - 1, : j + 1].argmin())
            best[i, j] = distance[i, j] + best[i - 1, int(came[i, j])]
    path = [size - 1]
    for i in range(count - 1, 0, -1):
        path.append(int(came[i, path[-1]]))
    return path[::-1]


def evenly(student: int, teacher: int) -> list[int]:
    """The teacher's layer behind which it has gone as far as the student's layer has, without looking at data."""
    return [max(0, round((i + 1) * teacher / student) - 1) for i in range(student)]


def routes(
    sources: Sequence[Source], student: Anatomy, batches: Sequence[Mapping[str, Tensor]] | None
) -> list[dict[str, Route]]:
    """Per teacher, which of its layers stand for each of the student's.

    Args:
        sources: the teachers.
        student: the student's anatomy.
        batches: calibration inputs; without any, layers are spread evenly.
    """
    found: list[dict[str, Route]] = [{} for _ in sources]
    for index, stack in enumerate(student.stacks):
        lists = [source.anatomy.stacks[index].layers for source in sources]
        if all(len(layers) == len(stack.layers) for layers in lists):
            continue
        reached = _reached(sources, lists, len(stack.layers), batches)
        for own, layers, ends in zip(found, lists, reached, strict=True):
            before = -1
            for layer, end in zip(stack.layers, ends, strict=True):
                own[layer] = Route(layers[before + 1 : end + 1], layers[end])
                before = end
    return found


def _reached(
    sources: Sequence[Source],
    lists: Sequence[tuple[str, ...]],
    depth: int,
    batches: Sequence[Mapping[str, Tensor]] | None,
) -> list[list[int]]:
    """Per teacher, the layer it has reached behind each of the student's."""
    if batches is None:
        return [evenly(depth, len(layers)) for layers in lists]
    streams = [_streams(source, layers, batches) for source, layers in zip(sources, lists, strict=True)]
    deepest = max(range(len(lists)), key=lambda k: len(lists[k]))
    reference = streams[deepest]
    influence = [1 - linear_cka(before, behind) for before, behind in itertools.pairwise(reference)]
    kept = keep_influential(influence, depth)
    found = []
    for k, stream in enumerate(streams):
        if k == deepest:
            found.append(kept)
            continue
        distance = torch.tensor(
            [[1 - linear_cka(reference[end + 1], behind) for behind in stream[1:]] for end in kept], dtype=torch.float64
        )
        found.append(align(distance))
    return found


@torch.no_grad()
def _streams(source: Source, layers: Sequence[str], batches: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """The residual stream before the first layer and behind every one, on a few tokens: [T, n] float64 each."""
    spots: list[Spot] = [(layers[0], "in"), *((layer, "out") for layer in layers)]
    masks = Masks(few := take(batches, SAMPLES), source.anatomy)
    found: list[list[Tensor]] = [[] for _ in spots]
    for index, batch in enumerate(few):
        with watching(source.model, spots) as seen:
            logits_of(source.model, without_labels(batch))
        for values, spot in zip(found, spots, strict=True):
            values.append(rows(seen[spot], masks.of(index, spot[0])).double())
    return [torch.cat(values) for values in found]
