"""Scores of embeddings against an ensemble's similarities, and against labelled pairs."""

import math

import pytest
import torch
from torch.nn import functional

from compressor.bench.answer_tallies import TallySetting
from compressor.bench.embedding_scores import EmbeddingTally
from compressor.models.tasks.table import TASKS


def unit(*shape, seed=0):
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def scored(rows, reference, size):
    tally = EmbeddingTally(TallySetting(TASKS["sentence-embedding"]))
    for start in range(0, len(rows), size):
        tally.compare(rows[start : start + size], reference[start : start + size])
    return tally.metrics()


def test_rotated_embeddings_of_another_width_are_as_good():
    rows = unit(40, 6)
    rotation = torch.linalg.qr(torch.randn(9, 6, generator=torch.Generator().manual_seed(1)))[0]
    scores = scored(rows @ rotation.T, rows, 16)
    assert scores["similarity"] == pytest.approx(1, abs=1e-4) and scores["neighbours"] == 1.0


def test_batches_do_not_matter_and_chance_is_near_zero():
    rows, reference = unit(60, 8), unit(60, 8, seed=1)
    scores = scored(rows, reference, 7)
    assert scores == scored(rows, reference, 60)
    assert abs(scores["similarity"]) < 4 * scores["similarity_error"]
    assert abs(scores["neighbours"] - 10 / 59) < 4 * scores["neighbours_error"]


def test_labels_are_of_a_text_and_the_one_before_it():
    rows, labels = unit(12, 4), torch.full((12, 1), math.nan)
    labels[1::2, 0] = (rows[::2] * rows[1::2]).sum(-1).exp()
    tally = EmbeddingTally(TallySetting(TASKS["sentence-embedding"]))
    # An odd batch parts a pair.
    tally.add(rows[:5], labels[:5], {}, 0)
    tally.add(rows[5:], labels[5:], {}, 5)
    scores = tally.metrics()
    assert tally.labelled == 6
    assert scores["spearman"] == pytest.approx(1) and "similarity" not in scores
