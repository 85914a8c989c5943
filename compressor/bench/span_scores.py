"""Scores of answers that are spans of a context, as of SQuAD (https://arxiv.org/abs/1606.05250)."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.bench.answer_tallies import TallySetting
from compressor.models.tasks.task import IMPOSSIBLE

#: Most tokens of an answer.
LONGEST_ANSWER = 30
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain_words(text: str) -> list[str]:
    """Its words in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def answer_scores(given: str, expected: list[str]) -> tuple[float, float]:
    """Exact match and F1 of words, each with the best of the expected answers; no answers expect an empty one."""
    words = plain_words(given)
    pairs = [_scores(words, plain_words(text)) for text in expected or [""]]
    return max(exact for exact, _ in pairs), max(f1 for _, f1 in pairs)


def _scores(given: list[str], expected: list[str]) -> tuple[float, float]:
    exact = float(given == expected)
    if not given or not expected:
        return exact, exact
    shared = sum((Counter(given) & Counter(expected)).values())
    return exact, 2 * shared / (len(given) + len(expected))


def best_spans(rows: Tensor, possible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score, first and last token of the likeliest span of at most `LONGEST_ANSWER` possible tokens, [B] each.

    Args:
        rows: log-probabilities of first and last tokens [B, 2, T].
        possible: [B, T].
    """
    starts, ends = (rows[:, side].masked_fill(~possible, IMPOSSIBLE) for side in (0, 1))
    padded = torch.nn.functional.pad(ends, (0, LONGEST_ANSWER - 1), value=IMPOSSIBLE)
    scores = (starts[..., None] + padded.unfold(1, LONGEST_ANSWER, 1)).flatten(1)
    best, place = scores.max(1)
    first = place // LONGEST_ANSWER
    return best, first, first + place % LONGEST_ANSWER


@dataclass
class _Answer:
    """The likeliest answer to one question so far, and the least score of none in any of its windows."""

    score: float = -math.inf
    text: str = ""
    nothing: float = math.inf


class SpanTally:
    """Exact match and F1; of batches without texts (`TallySetting.references`) by tokens instead of words."""

    def __init__(self, setting: TallySetting) -> None:
        self._references = setting.references
        self._answers: dict[int, _Answer] = {}
        self._pairs: list[tuple[float, float]] = []

    @property
    def labelled(self) -> int:
        return len(self._pairs) or len(self._answers)

    def add(self, rows: Tensor, labels: Tensor, inputs: Mapping[str, Tensor], first: int) -> None:
        if self._references is None:
            self._add_tokens(rows, labels)
            return
        places = [self._references.places(first + row) for row in range(len(rows))]
        width = rows.shape[-1]
        begins, ends = (
            torch.tensor([side[index] + [-1] * (width - len(side[index])) for side in places]) for index in (0, 1)
        )
        scores, firsts, lasts = best_spans(rows, begins >= 0)
        # The answer of windows without one is where their labels are: the first special token.
        special = (begins < 0).long().argmax(1)
        nothing = rows.gather(2, special[:, None, None].expand(-1, 2, 1))[..., 0].sum(1)
        for row in range(len(rows)):
            question = self._references.question(first + row)
            answer = self._answers.setdefault(question, _Answer())
            answer.nothing = min(answer.nothing, float(nothing[row]))
            if scores[row] > max(answer.score, IMPOSSIBLE):
                begin, end = int(begins[row, firsts[row]]), int(ends[row, lasts[row]])
                answer.score, answer.text = float(scores[row]), self._references.context(question)[begin:end]

    def _add_tokens(self, rows: Tensor, labels: Tensor) -> None:
        known = (labels >= 0).all(-1)
        _, firsts, lasts = best_spans(rows[known], torch.ones_like(rows[known][:, 0], dtype=torch.bool))
        for first, last, (begin, end) in zip(firsts.tolist(), lasts.tolist(), labels[known].tolist(), strict=True):
            shared = max(0, min(last, end) - max(first, begin) + 1)
            exact = float((first, last) == (begin, end))
            self._pairs.append((exact, 2 * shared / (last - first + end - begin + 2)))

    def metrics(self) -> dict[str, float | None]:
        pairs = torch.tensor(self._pairs or self._scored(), dtype=torch.float64)
        errors = pairs.std(0) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
        named: dict[str, float | None] = {}
        for index, name in enumerate(("exact_match", "f1")):
            named[name] = float(pairs[:, index].mean())
            named[f"{name}_error"] = None if errors is None else float(errors[index])
        return named

    def _scored(self) -> list[tuple[float, float]]:
        """Scores of the questions; only where some have no answer may none be given."""
        expected = {question: self._references.answers(question) for question in self._answers}
        may_be_none = not all(expected.values())
        return [
            answer_scores("" if may_be_none and answer.nothing > answer.score else answer.text, expected[question])
            for question, answer in self._answers.items()
        ]
