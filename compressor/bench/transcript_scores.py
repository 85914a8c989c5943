"""Scores of transcripts: errors of words and of characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.bench.answer_tallies import TallySetting
from compressor.bench.sample_mean import SampleMean


def edits(given: Sequence[object], expected: Sequence[object]) -> int:
    """Fewest insertions, deletions and substitutions from one sequence to another (Levenshtein 1966)."""
    row = list(range(len(expected) + 1))
    for index, symbol in enumerate(given, 1):
        corner, row[0] = row[0], index
        for place, other in enumerate(expected, 1):
            corner, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, corner + (symbol != other))
    return row[-1]


def symbols_of_frames(classes: Tensor, blank: int) -> list[int]:
    """The symbols of frames [F]: repeats are one, blanks none."""
    return [symbol for symbol in torch.unique_consecutive(classes).tolist() if symbol != blank]


class TranscriptTally:
    """Word and character error rates of the likeliest class of every frame; of symbols where no tokenizer is at hand.

    Rates are sums of edits over sums of words or characters, as usual, and may be above 1.
    """

    def __init__(self, setting: TallySetting) -> None:
        self.task, self._texts = setting.task, setting.references
        self.labelled = 0
        self._words, self._characters = SampleMean(), SampleMean()

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        classes, positions = rows.argmax(-1), self.task.positions(inputs, rows.shape[1])
        for row, known in enumerate(self.task.known(labels).tolist()):
            if not known:
                continue
            self.labelled += 1
            frames = classes[row] if positions is None else classes[row][positions[row].cpu()]
            given, expected = symbols_of_frames(frames, self.task.blank), labels[row][labels[row] >= 0].tolist()
            if self._texts is None:
                _count(self._characters, given, expected)
                continue
            given, expected = self._texts.text(given), self._texts.text(expected)
            _count(self._words, given.split(), expected.split())
            _count(self._characters, given, expected)

    def metrics(self) -> dict[str, float | None]:
        return {
            "wer": self._words.mean, "wer_error": self._words.error,
            "cer": self._characters.mean, "cer_error": self._characters.error,
        }  # fmt: skip


def _count(rate: SampleMean, given: Sequence[object], expected: Sequence[object]) -> None:
    rate.add_sums(torch.tensor([edits(given, expected)]), torch.tensor([len(expected)]))
