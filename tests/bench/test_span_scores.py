"""Scores of answers to questions."""

import pytest
import torch

from compressor.bench.accuracy import Tally
from compressor.bench.span_scores import answer_scores, best_spans
from compressor.models.tasks.table import TASKS


@pytest.mark.parametrize(
    ("given", "expected", "scores"),
    [
        ("The Film!", ["film"], (1.0, 1.0)),
        ("a very fine film", ["fine film", "plot"], (0.0, 0.8)),
        ("", [], (1.0, 1.0)),
        ("film", [], (0.0, 0.0)),
        ("plot plot", ["plot"], (0.0, pytest.approx(2 / 3))),
    ],
)
def test_words_count_without_articles_case_and_punctuation(given, expected, scores):
    assert answer_scores(given, expected) == scores


def test_the_likeliest_span_is_that_of_all_pairs():
    rows = torch.randn(6, 2, 40).log_softmax(-1)
    possible = torch.rand(6, 40) < 0.7
    scores, firsts, lasts = best_spans(rows, possible)
    for row in range(6):
        pairs = {
            (i, j): float(rows[row, 0, i] + rows[row, 1, j])
            for i in range(40) for j in range(i, min(40, i + 30)) if possible[row, i] and possible[row, j]
        }  # fmt: skip
        assert pairs[int(firsts[row]), int(lasts[row])] == pytest.approx(max(pairs.values())) == float(scores[row])


def test_without_texts_tokens_are_compared():
    tally = Tally(TASKS["question-answering"])
    rows = torch.full((2, 2, 8), -9.0)
    rows[:, 0, 2] = rows[:, 1, 4] = 0
    tally.add(rows.log_softmax(-1), {}, torch.tensor([[2, 4], [3, 4]]))
    score = tally.score()
    assert score.value("exact_match") == 0.5 and score.f1 == pytest.approx((1 + 0.8) / 2) and score.labelled == 2
