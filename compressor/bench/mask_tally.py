"""Mean intersection over union of segmentations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compressor.bench.answer_tallies import TallySetting
from compressor.models.tasks.masks import resized_rows


class MaskTally:
    """Mean over occurring classes of intersection over union, of all pixels, and the share of right pixels."""

    def __init__(self, setting: TallySetting) -> None:
        self.labelled = 0
        #: Per batch: intersections and unions of each sample and class [B, C].
        self._shared: list[Tensor] = []
        self._joined: list[Tensor] = []

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        """Rows [B, h, w, C] are resized to the labels' [B, H, W]."""
        classes, predicted = rows.shape[-1], resized_rows(rows, labels).argmax(-1)
        known = labels >= 0
        self.labelled += int(known.sum())
        hits = _counts(labels, known & (predicted == labels), classes)
        self._shared.append(hits)
        self._joined.append(_counts(predicted, known, classes) + _counts(labels, known, classes) - hits)

    def metrics(self) -> dict[str, float | None]:
        shared, joined = torch.cat(self._shared).double(), torch.cat(self._joined).double()
        occurring = joined.sum(0) > 0
        shared, joined = shared[:, occurring], joined[:, occurring]
        ratios = shared.sum(0) / joined.sum(0)
        return {"miou": float(ratios.mean()), "miou_error": _error(shared, joined, ratios),
                "accuracy": float(shared.sum()) / self.labelled}  # fmt: skip


def _counts(classes: Tensor, counted: Tensor, number: int) -> Tensor:
    """Pixels of each class [B, C] where `counted`; classes that the model lacks are left out."""
    counted = counted & (classes < number)
    owners = torch.arange(len(classes)).view(-1, 1, 1).expand_as(classes)
    places = (owners * number + classes)[counted]
    return places.bincount(minlength=len(classes) * number).view(len(classes), number)


def _error(shared: Tensor, joined: Tensor, ratios: Tensor) -> float | None:
    """Standard error over samples of a mean of ratios of sums, to first order."""
    samples = len(shared)
    if samples < 2:
        return None
    influence = ((shared - ratios * joined) / joined.sum(0)).mean(1)
    return math.sqrt(float(influence.square().sum()) * samples / (samples - 1))
