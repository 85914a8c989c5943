"""Standard errors over samples."""

from __future__ import annotations

import math

import pytest
import torch

from compressor.bench.accuracy import Tally, score_model
from compressor.bench.sample_mean import SampleMean
from compressor.models.tasks.table import TASKS


def test_one_position_a_sample_gives_the_usual_error():
    values = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = SampleMean()
    for part in values.split(20):
        mean.add(part, torch.arange(len(part)))
    assert mean.mean == pytest.approx(values.mean().item())
    assert mean.error == pytest.approx(values.std().item() / math.sqrt(50))


def test_tokens_of_a_text_are_one_draw():
    """Texts whose tokens are all alike: the error is that of the texts, not of their many tokens."""
    texts = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = SampleMean()
    mean.add(texts.repeat_interleave(25), torch.arange(40).repeat_interleave(25))
    assert mean.error == pytest.approx(texts.std().item() / math.sqrt(40))


def test_the_error_is_that_of_the_mean():
    """Over many draws of texts of unlike lengths, means scatter as their errors say."""
    generator = torch.Generator().manual_seed(0)
    means, errors = [], []
    for _ in range(300):
        lengths = torch.randint(1, 20, (60,), generator=generator)
        values = torch.randn(60, generator=generator).repeat_interleave(lengths)
        mean = SampleMean()
        mean.add(values, torch.arange(60).repeat_interleave(lengths))
        means.append(mean.mean)
        errors.append(mean.error)
    assert sum(errors) / 300 == pytest.approx(torch.tensor(means).std().item(), rel=0.12)


def test_too_little_has_no_error():
    mean = SampleMean()
    assert (mean.mean, mean.error) == (None, None)
    mean.add(torch.ones(3), torch.zeros(3, dtype=torch.long))
    assert (mean.mean, mean.error) == (1.0, None)


def test_scores_have_errors_over_samples():
    generator = torch.Generator().manual_seed(0)
    log_probs, reference = (torch.randn(30, 5, generator=generator).log_softmax(-1) for _ in range(2))
    labels = torch.randint(5, (30,), generator=generator)
    score = score_model(log_probs, labels, reference)
    kl = (reference.exp() * (reference - log_probs)).sum(-1)
    assert score.kl == pytest.approx(kl.mean().item(), rel=1e-5)
    assert score.kl_error == pytest.approx(kl.std().item() / math.sqrt(30), rel=1e-5)
    assert score.accuracy_error == pytest.approx(math.sqrt(score.accuracy * (1 - score.accuracy) / 30))
    assert score.majority == labels.bincount().max().item() / 30


def test_the_perplexity_of_one_text_repeated_is_certain():
    """Padding counts neither in the mean nor in its error; sequences that are alike leave none."""
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(1, 6, 9, generator=generator).log_softmax(-1).expand(4, -1, -1)
    labels = torch.randint(9, (1, 6), generator=generator).expand(4, -1).clone()
    tally = Tally(TASKS["causal-lm"])
    tally.add(log_probs, {"attention_mask": torch.ones(4, 6)}, labels)
    assert tally.score().perplexity_error == pytest.approx(0.0, abs=1e-6)
    other = Tally(TASKS["causal-lm"])
    labels[2:, 3:] = -100
    other.add(log_probs, {"attention_mask": torch.ones(4, 6)}, labels)
    nll = -log_probs[:, :-1].gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0] * (labels[:, 1:] >= 0)
    counts = (labels[:, 1:] >= 0).sum(1)
    mean = nll.sum() / counts.sum()
    error = (nll.sum(1) - mean * counts).square().sum().mul(4 / 3).sqrt() / counts.sum()
    assert other.score().perplexity == pytest.approx(mean.exp().item(), rel=1e-5)
    assert other.score().perplexity_error == pytest.approx((mean.exp() * error).item(), rel=1e-4)
