"""Scores over all test samples and on each teacher's part, and the KL to the chosen mixture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.common.setting import Arena
from compressor.bench.accuracy import Predictions, Tally, new_tally, predict
from compressor.ensemble.probabilities import mix_predictions
from compressor.ensemble.stacking import Mixture

ALL = "all"


class Examination:
    """The test part as the teachers of a seed answer it; their predictions are kept."""

    def __init__(self, arena: Arena, seed: int) -> None:
        self._arena = arena
        self._models = [model for _, model in arena.teachers(seed)]
        self._teachers = list(self._predictions(self._models))

    def teachers(self, mixture: Mixture) -> list[dict[str, Any]]:
        """Figures of each teacher and, last, of their mixture."""
        alone = [
            self._figures((found.log_probs[k] for _, found in self._teachers), mixture)
            for k in range(len(self._models))
        ]
        return [*alone, self._figures((_mixed(found, mixture) for _, found in self._teachers), mixture)]

    def student(self, model: PreTrainedModel, mixture: Mixture) -> dict[str, Any]:
        """Score, KL to the mixture in nats, and the score on each part."""
        return self._figures((found.log_probs[0] for _, found in self._predictions([model])), mixture)

    def _predictions(self, models: list[PreTrainedModel]) -> Iterator[tuple[str, Predictions]]:
        for domain, batches in self._arena.test_batches().items():
            for found in predict(models, batches):
                yield domain, found

    def _figures(self, predictions: Iterable[Tensor], mixture: Mixture) -> dict[str, Any]:
        tallies: dict[str, Tally] = {}
        for (domain, found), log_probs in zip(self._teachers, predictions, strict=True):
            assert found.labels is not None
            reference = _mixed(found, mixture)
            for part, rows in self._parts(domain, found.labels).items():
                inputs = {name: value[rows] for name, value in found.inputs.items()}
                tally = tallies.setdefault(part, new_tally(self._models[0]))
                tally.add(log_probs[rows], inputs, found.labels[rows], reference[rows])
        scores = {part: tally.score() for part, tally in tallies.items()}
        parts = {part: round(self._arena.figure(tally), 4) for part, tally in tallies.items()}
        return {"score": parts.pop(ALL), "kl": round(scores[ALL].kl or 0.0, 5), "parts": parts}

    def _parts(self, domain: str, labels: Tensor) -> dict[str, Tensor]:
        """Rows of a batch by part: all, each teacher's classes, or a domain."""
        everything = torch.ones(len(labels), dtype=torch.bool)
        classes = {f"classes {own[0]} to {own[-1]}": own for own in self._arena.setting.classes}
        known = {part: torch.isin(labels, torch.tensor(own)) for part, own in classes.items()}
        found = {ALL: everything, **({domain: everything} if domain else {}), **known}
        return {part: rows for part, rows in found.items() if rows.any()}


def _mixed(found: Predictions, mixture: Mixture) -> Tensor:
    return mix_predictions(found.log_probs, mixture.weights, mixture.mixing)
