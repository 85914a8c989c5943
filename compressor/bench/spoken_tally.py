"""Scores of models that say what they hear: perplexity, and errors of the transcripts that they make themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressor.bench.answer_tallies import TallySetting, TokenTally
from compressor.bench.transcript_scores import ErrorRates

#: Tokens that a transcript may be longer than the expected one.
MORE_TOKENS = 8


class SpokenTally(TokenTally):
    """Perplexity, and of a model at hand the word and character error rates of its likeliest transcripts.

    A transcript is made token by token, each the likeliest after those before (greedy).
    """

    def __init__(self, setting: TallySetting) -> None:
        super().__init__(setting)
        self._model, self._texts, self._rates = setting.model, setting.references, ErrorRates()

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        super().add(rows, labels, inputs, first)
        known = (labels >= 0).any(-1)
        if self._model is None or self._texts is None or not known.any():
            return
        said = _transcripts(self._model, inputs, labels.shape[1] + MORE_TOKENS)
        for given, expected in zip(said[known], labels[known], strict=True):
            text = self._texts.text(expected[expected >= 0].tolist())
            self._rates.add(self._texts.text(given.tolist()), text)

    def metrics(self) -> dict[str, Any]:
        return {**super().metrics(), **self._rates.metrics()}


@torch.inference_mode()
def _transcripts(model: Any, inputs: Mapping[str, Tensor], most: int) -> Tensor:
    """Tokens [B, S] of what a model says of sounds."""
    sounds = {name: value.to(model.device) for name, value in inputs.items() if not name.startswith("decoder_")}
    return model.generate(**sounds, max_new_tokens=most, num_beams=1, do_sample=False).cpu()
