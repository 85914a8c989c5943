"""Principal components beside outlier coordinates, which norms scale unlike all others.

A norm with a scale per coordinate commutes with a rotation only where the scales are alike.  Those of pretrained models
are, but for a few coordinates (Kovaleva et al. 2021, "BERT Busters", https://arxiv.org/abs/2105.06990): these keep an
axis of their own, and the rest is rotated.  Without outliers this is `principal`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.fusion.maps.residual import (
    RESIDUAL_MAPS,
    ResidualMap,
    ResidualProblem,
    principal_components,
    projected,
    weighted_gram,
)

#: Mean relative distance of a coordinate's scales from each norm's median from which it is an outlier.
OUTLIER_DISTANCE = 0.25
#: Most outliers, as a share of the student's coordinates.
MOST_OUTLIERS = 0.25
#: Share of the first component of one coordinate of several teachers from which another is kept too.
LEAST_COMPONENT = 0.05


@RESIDUAL_MAPS.register("outliers")
def components_beside_outliers(problem: ResidualProblem) -> ResidualMap:
    """Keep outlier coordinates of norms as they are, and take the principal components of the rest."""
    found = [outlier_coordinates(scales, round(MOST_OUTLIERS * problem.m)) for scales in problem.scales]
    if not any(len(each) for each in found) or problem.centred:
        return principal_components(problem)
    gram = weighted_gram(problem)
    starts = [sum(problem.sizes[:k]) for k in range(len(problem.sizes))]
    groups: dict[int, list[int]] = {}
    for start, coordinates in zip(starts, found, strict=True):
        for coordinate in coordinates.tolist():
            # Fine-tunes of one ancestor have the same outliers: their mean is one coordinate.
            groups.setdefault(coordinate, []).append(start + coordinate)
    kept = [column for places in groups.values() for column in _components(gram, places)]
    rest = torch.ones(len(gram), dtype=torch.bool)
    rest[[place for places in groups.values() for place in places]] = False
    vectors = torch.linalg.eigh(gram[rest][:, rest])[1].flip(1)[:, : problem.m - len(kept)]
    rotated = torch.zeros(len(gram), vectors.shape[1], dtype=torch.float64)
    rotated[rest] = vectors
    basis = torch.cat([torch.stack(kept, dim=1), rotated], dim=1) if kept else rotated
    return projected(problem, basis)


def outlier_coordinates(scales: Tensor, most: int) -> Tensor:
    """Outliers among the coordinates that norms scale by [norms, n], ascending; at most so many."""
    if not scales.numel():
        return torch.zeros(0, dtype=torch.long)
    medians = scales.median(dim=1, keepdim=True).values
    distance = (scales / torch.where(medians == 0, 1.0, medians) - 1).abs().mean(0)
    order = distance.argsort(descending=True, stable=True)[:most]
    return order[distance[order] > OUTLIER_DISTANCE].sort().values


def _components(gram: Tensor, places: Sequence[int]) -> list[Tensor]:
    """Columns [N] that keep one outlier of several teachers, the strongest first; none where it is always zero."""
    values, vectors = torch.linalg.eigh(gram[places][:, places])
    columns = []
    for value, vector in zip(values.flip(0), vectors.T.flip(0), strict=True):
        if value > LEAST_COMPONENT * values[-1]:
            column = torch.zeros(len(gram), dtype=torch.float64)
            column[places] = vector
            columns.append(column)
    return columns
