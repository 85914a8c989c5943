"""Mean average precision of detectors, as COCO defines it (https://cocodataset.org/#detection-eval)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.bench.answer_tallies import TallySetting
from compressor.models.tasks.boxes import BOX, box_overlaps, known_images, split_rows

#: Overlaps from which a detection counts, and recalls at which precision is read.
OVERLAPS = torch.linspace(0.5, 0.95, 10, dtype=torch.float64)
RECALLS = torch.linspace(0, 1, 101, dtype=torch.float64)
#: Most detections of an image, and groups of images that are left out for the standard error.
MOST, GROUPS = 100, 20


@dataclass(frozen=True)
class _Found:
    """Detections of one class in one image, the surest first: scores [D], which are right [10, D]; objects there."""

    image: int
    scores: Tensor
    right: Tensor
    objects: int


class BoxTally:
    """Mean over classes and overlaps of average precision, and that of an overlap of a half.

    Every place is one detection, of its likeliest class, as transformers' post-processing has it.
    """

    def __init__(self, setting: TallySetting) -> None:
        self.labelled = 0
        self._found: dict[int, list[_Found]] = {}

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        """Rows [B, Q, C + 5], labels [B, M, 5] (class, box)."""
        for image in known_images(labels).nonzero()[:, 0].tolist():
            self.labelled += 1
            objects = labels[image][labels[image, :, 0] >= 0].double()
            classes, boxes = split_rows(rows[image].double())
            scores, numbers = classes[:, :-1].exp().max(-1)
            kept = scores.argsort(descending=True, stable=True)[:MOST]
            scores, numbers, boxes = scores[kept], numbers[kept], boxes[kept]
            for number in {*numbers.tolist(), *objects[:, 0].long().tolist()}:
                own, wanted = numbers == number, objects[objects[:, 0] == number][:, -BOX:]
                right = _matched(boxes[own], wanted)
                found = _Found(self.labelled, scores[own], right, len(wanted))
                self._found.setdefault(number, []).append(found)

    def metrics(self) -> dict[str, float | None]:
        every = self._precisions(range(1, self.labelled + 1))
        return {"map": _mean(every), "map_error": self._error(), "map50": _mean(every[:, :1])}

    def _precisions(self, images: Sequence[int]) -> Tensor:
        """Average precision of each class that occurs in the images, by overlap [C, 10]."""
        chosen = set(images)
        per_class = []
        for number in sorted(self._found):
            found = [each for each in self._found[number] if each.image in chosen]
            objects = sum(each.objects for each in found)
            if objects:
                scores = torch.cat([each.scores for each in found])
                per_class.append(_average_precision(scores, torch.cat([each.right for each in found], 1), objects))
        return torch.stack(per_class) if per_class else torch.zeros(0, len(OVERLAPS), dtype=torch.float64)

    def _error(self) -> float | None:
        """Standard error by a jackknife that leaves out one group of images at a time (Shao and Wu 1989)."""
        groups = min(GROUPS, self.labelled)
        if groups < 2:
            return None
        numbers = range(1, self.labelled + 1)
        left = [_mean(self._precisions([n for n in numbers if n % groups != group])) for group in range(groups)]
        spread = torch.tensor(left, dtype=torch.float64)
        return math.sqrt(float((spread - spread.mean()).square().sum()) * (groups - 1) / groups)


def _mean(precisions: Tensor) -> float:
    return float(precisions.mean()) if precisions.numel() else 0.0


def _matched(boxes: Tensor, objects: Tensor) -> Tensor:
    """Which of the boxes [D, 4], the surest first, take an object [M, 4] that is free, by overlap [10, D]."""
    right = torch.zeros(len(OVERLAPS), len(boxes), dtype=torch.bool)
    if not len(objects):
        return right
    overlaps = box_overlaps(boxes[:, None], objects[None])[0]
    free = torch.ones(len(OVERLAPS), len(objects), dtype=torch.bool)
    for place, own in enumerate(overlaps):
        best, column = own.where(free, -1.0).max(-1)
        right[:, place] = best >= OVERLAPS
        free[right[:, place], column[right[:, place]]] = False
    return right


def _average_precision(scores: Tensor, right: Tensor, objects: int) -> Tensor:
    """Mean over `RECALLS` of the best precision at that recall or a higher one, by overlap [10]."""
    hits = right[:, scores.argsort(descending=True, stable=True)].double().cumsum(1)
    precision = hits / torch.arange(1, len(scores) + 1)
    # From the right: what is reached at a higher recall counts at lower ones too.
    precision = precision.flip(1).cummax(1).values.flip(1)
    places = torch.searchsorted((hits / objects).contiguous(), RECALLS.expand(len(hits), -1).contiguous())
    padded = torch.cat([precision, torch.zeros(len(hits), 1, dtype=torch.float64)], 1)
    return padded.gather(1, places.clamp(max=len(scores))).mean(1)
