"""The choice of an ensemble's mixture."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from compressor.ensemble.probabilities import ensemble_kl, mix_predictions
from compressor.ensemble.stacking import Mixture, TeacherPredictions, choose_mixture, disagreement, fit_weights

CLASSES = 6


def random_rows(rows: int = 400, sharpness: float = 2.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(rows, CLASSES, generator=generator)).log_softmax(-1)


def drawn_labels(log_probs: torch.Tensor, seed: int = 9) -> torch.Tensor:
    return torch.multinomial(log_probs.exp(), 1, generator=torch.Generator().manual_seed(seed))[:, 0]


def experts(rows: int = 2000) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Two teachers: each is right and sure on its half of the classes, and vague elsewhere."""
    labels = torch.randint(CLASSES, (rows,), generator=torch.Generator().manual_seed(3))
    noise = [random_rows(rows, 1.0, seed) for seed in (4, 5)]
    halves = [labels < CLASSES // 2, labels >= CLASSES // 2]
    answers = torch.nn.functional.one_hot(labels, CLASSES).float()
    return [
        (row + 6 * answers * half[:, None]).log_softmax(-1) for row, half in zip(noise, halves, strict=True)
    ], labels


def predictions(rows: list[torch.Tensor], labels: torch.Tensor | None = None) -> TeacherPredictions:
    return TeacherPredictions(tuple(rows), torch.arange(len(rows[0])), labels)


class TestMix:
    def test_between_the_means_of_probabilities_and_of_logits(self) -> None:
        rows = [random_rows(seed=seed) for seed in (0, 1)]
        mean = mix_predictions(rows, [1, 3])
        torch.testing.assert_close(mean.exp(), 0.25 * rows[0].exp() + 0.75 * rows[1].exp())
        product = mix_predictions(rows, [1, 3], math.inf)
        torch.testing.assert_close(product, (0.25 * rows[0] + 0.75 * rows[1]).log_softmax(-1))
        # The tempered one tends to either end.
        torch.testing.assert_close(mix_predictions(rows, [1, 3], 1 + 1e-6), mean, atol=1e-4, rtol=1e-4)
        nearly = mix_predictions([row.double() for row in rows], [1, 3], 1e5)
        torch.testing.assert_close(nearly, product.double(), atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize("mixing", [1.0, 4.0, math.inf])
    def test_is_a_distribution_and_leaves_out_weight_nought(self, mixing: float) -> None:
        rows = [random_rows(seed=seed) for seed in (0, 1)]
        torch.testing.assert_close(mix_predictions(rows, [2, 1], mixing).exp().sum(-1), torch.ones(400))
        torch.testing.assert_close(mix_predictions(rows, [0, 2], mixing), rows[1])
        torch.testing.assert_close(mix_predictions([rows[0]] * 2, [1, 2], mixing), rows[0])

    @pytest.mark.parametrize("mixing", [4.0, math.inf])
    def test_distillation_ends_at_the_mixture(self, mixing: float) -> None:
        rows = [random_rows(seed=seed).double() for seed in (0, 1)]
        assert ensemble_kl(mix_predictions(rows, [1, 2], mixing), rows, [1, 2], 1.0, mixing).item() == pytest.approx(0)
        assert ensemble_kl(mix_predictions(rows, [1, 2]), rows, [1, 2], 1.0, mixing) > 1e-3


class TestWithoutLabels:
    def test_disagreement_is_a_share(self) -> None:
        sure = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
        assert disagreement([sure, sure], [1, 1]) == pytest.approx(0)
        assert disagreement([sure, sure.flip(1)], [1, 1]) == pytest.approx(1)
        assert disagreement([sure, sure.flip(1)], [1, 0]) == 0

    def test_twins_keep_probabilities_and_experts_take_logits(self) -> None:
        base = random_rows(seed=1)
        twins = [(base + 0.3 * random_rows(seed=seed)).log_softmax(-1) for seed in (2, 3)]
        assert choose_mixture(predictions(twins)).mixing == 1
        unlike = choose_mixture(predictions(experts()[0]))
        assert unlike.mixing == math.inf and unlike.weights == (0.5, 0.5)
        assert "disagree" in unlike.why

    def test_what_is_given_stays(self) -> None:
        chosen = choose_mixture(predictions(experts()[0]), "probabilities", [3, 1])
        assert chosen.mixing == 1 and chosen.weights == (0.75, 0.25)


class TestByLabels:
    def test_weights_are_those_that_drew_the_labels(self) -> None:
        rows = [random_rows(8000, 3.0, seed) for seed in (1, 2)]
        labels = drawn_labels(mix_predictions(rows, [0.7, 0.3]))
        assert fit_weights(predictions(rows, labels), 1.0)[0] == pytest.approx(0.7, abs=0.04)
        chosen = choose_mixture(predictions(rows, labels))
        assert chosen.mixing == 1 and chosen.weights[0] == pytest.approx(0.7, abs=0.04)

    def test_a_product_of_experts_is_found(self) -> None:
        rows = [random_rows(8000, 2.0, seed) for seed in (1, 2)]
        chosen = choose_mixture(predictions(rows, drawn_labels(mix_predictions(rows, [1, 1], math.inf))))
        assert chosen.name == "logits" and chosen.weights == (0.5, 0.5)

    def test_takes_logits_of_unlike_teachers_where_the_choice_counts(self) -> None:
        rows, labels = experts()
        rows = [row + 3 * random_rows(len(row), 1.0, seed) for row, seed in zip(rows, (6, 7), strict=True)]
        rows = [row.log_softmax(-1) for row in rows]
        judged = predictions(rows, labels)
        likelier = choose_mixture(judged)
        chosen = choose_mixture(replace(judged, choice=True))
        assert likelier.mixing < math.inf
        assert chosen.mixing == math.inf
        assert likelier.nll[0] in chosen.nll
        assert "disagree" in chosen.why
        # By name it is what was asked for, and twins are judged by their likelihood.
        assert choose_mixture(replace(judged, choice=True), "probabilities").mixing == 1
        twins = [random_rows(seed=1), random_rows(seed=1)]
        alike = predictions(twins, drawn_labels(twins[0]))
        assert choose_mixture(replace(alike, choice=True)) == choose_mixture(alike)

    def test_twins_keep_equal_weights_and_noise_is_left_out(self) -> None:
        truth = random_rows(4000, 3.0)
        labels = drawn_labels(truth)
        twins = [(truth + 0.3 * random_rows(4000, 1.0, seed)).log_softmax(-1) for seed in (2, 3)]
        assert choose_mixture(predictions(twins, labels)).weights == (0.5, 0.5)
        chosen = choose_mixture(predictions([truth, random_rows(4000, 4.0, 7)], labels))
        assert chosen.weights == (1.0, 0.0)

    def test_order_of_teachers_and_report(self) -> None:
        rows, labels = experts()
        one, other = (choose_mixture(predictions(r, labels)) for r in (rows, rows[::-1]))
        assert one.mixing == other.mixing and one.weights == pytest.approx(other.weights[::-1], abs=1e-3)
        nll = dict(one.nll)
        assert nll["teacher 1"] > min(nll.values()) < nll["teacher 2"]
        assert Mixture.from_report(one.report()) == one

    def test_dependent_rows_are_one_sample(self) -> None:
        """Ten copies of a sample are no ten samples: what was noise stays noise."""
        rows = [random_rows(24, 3.0, seed) for seed in (1, 2)]
        labels = drawn_labels(mix_predictions(rows, [0.62, 0.38]))
        copied = [row.repeat_interleave(50, 0) for row in (*rows, labels)]
        copies = TeacherPredictions(tuple(copied[:2]), torch.arange(24).repeat_interleave(50), copied[2])
        many, once = choose_mixture(copies), choose_mixture(predictions(rows, labels))
        assert many.mixing == once.mixing and (many.weights == (0.5, 0.5)) == (once.weights == (0.5, 0.5))


def test_the_report_says_what_each_teacher_alone_would_give() -> None:
    from compressor.report.mixture import describe_mixture

    rows, labels = experts()
    line = describe_mixture({"mixture": choose_mixture(predictions(rows, labels)).report()})
    assert line.startswith("mean of ") and "weights 0.5, 0.5" in line and "each teacher alone" in line
    assert describe_mixture({"mixture": Mixture((1.0,)).report()}) == describe_mixture({}) == ""
