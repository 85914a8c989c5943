"""Scores of models that embed images and texts alike, over all samples at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressor.bench.answer_tallies import TallySetting


class PairTally:
    """The share of images whose text is the nearest, or among the five nearest, and of texts whose nearest image fits.

    Candidates are the different texts of all samples, or all images.  With a folder for each class the texts are the
    prompts of classes, and the first of these scores is the accuracy of zero-shot classification.
    """

    def __init__(self, setting: TallySetting) -> None:
        self.labelled = 0
        self._rows: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        self.labelled += len(labels)
        self._rows.append(rows.float())
        self._labels.append(labels.reshape(-1))

    def metrics(self) -> dict[str, Any]:
        rows, labels = torch.cat(self._rows), torch.cat(self._labels)
        numbers, owners = labels.unique(return_inverse=True)
        # One sample of each text.
        places = torch.zeros(len(numbers), dtype=torch.long).scatter_(0, owners, torch.arange(len(labels)))
        images, texts = rows[:, 0], rows[places, 1]
        nearest = (images @ texts.T).topk(min(5, len(numbers)), dim=-1).indices
        hits = nearest == owners[:, None]
        scores = {"accuracy": hits[:, 0], "recall5": hits.any(-1)}
        if len(numbers) > 5:
            scores["recall1_images"] = labels[(texts @ images.T).argmax(-1)] == numbers
        else:
            # Among five texts all are among the five nearest.
            del scores["recall5"]
        return {name: value for key, right in scores.items() for name, value in _share(key, right.double())}


def _share(name: str, right: Tensor) -> list[tuple[str, float]]:
    share = float(right.mean())
    error = [] if name == "accuracy" else [(f"{name}_error", math.sqrt(share * (1 - share) / len(right)))]
    return [(name, share), *error]
