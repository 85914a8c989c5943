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


class ErrorRates:
    """Word and character error rates: sums of edits over sums of words or characters, which may be above 1."""

    def __init__(self) -> None:
        self._words, self._characters = SampleMean(), SampleMean()

    def add(self, given: str, expected: str) -> None:
        """Add a transcript."""
        _count(self._words, given.split(), expected.split())
        self.add_symbols(given, expected)

    def add_symbols(self, given: Sequence[object], expected: Sequence[object]) -> None:
        """Add symbols whose text is not known."""
        _count(self._characters, given, expected)

    def metrics(self) -> dict[str, float | None]:
        """Rates and their standard errors; None without words or characters."""
        return {
            "wer": self._words.mean, "wer_error": self._words.error,
            "cer": self._characters.mean, "cer_error": self._characters.error,
        }  # fmt: skip


class TranscriptTally:
    """Error rates of the likeliest class of every frame; of symbols alone where no tokenizer is at hand."""

    def __init__(self, setting: TallySetting) -> None:
        self.task, self._texts = setting.task, setting.references
        self.labelled = 0
        self._rates = ErrorRates()

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        classes, positions = rows.argmax(-1), self.task.positions(inputs, rows.shape[1])
        for row, known in enumerate(self.task.known(labels).tolist()):
            if not known:
                continue
            self.labelled += 1
            frames = classes[row] if positions is None else classes[row][positions[row].cpu()]
            given, expected = symbols_of_frames(frames, self.task.blank), labels[row][labels[row] >= 0].tolist()
            if self._texts is None:
                self._rates.add_symbols(given, expected)
                continue
            self._rates.add(self._texts.text(given), self._texts.text(expected))

    def metrics(self) -> dict[str, float | None]:
        return self._rates.metrics()


def _count(rate: SampleMean, given: Sequence[object], expected: Sequence[object]) -> None:
    rate.add_sums(torch.tensor([edits(given, expected)]), torch.tensor([len(expected)]))
