"""Answers that are no single class: how they are mixed and compared."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from compressor.ensemble.answers import ANSWERS, distillation_loss, ensemble_predictions, mean_kl
from compressor.errors import UserError

#: Kinds whose answers to samples do not depend on each other, one row a sample.
ROWS = [kind for kind in ANSWERS if kind not in ("pairs", "boxes")]


def test_labels_are_mixed_one_by_one():
    odds = [torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[0.0, 3.0, 1.0]])]
    answers = ANSWERS["labels"]
    mean = (odds[0].sigmoid() + 3 * odds[1].sigmoid()) / 4
    assert torch.allclose(answers.mix(odds, [1, 3]).sigmoid(), mean, atol=1e-6)
    assert torch.allclose(answers.mix(odds, [1, 3], math.inf), (odds[0] + 3 * odds[1]) / 4, atol=1e-6)


def test_the_divergence_of_labels_is_a_sum_of_coins():
    reference, rows = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    p, q = reference.sigmoid(), rows.sigmoid()
    coins = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert torch.allclose(ANSWERS["labels"].divergence(reference, rows), coins.sum(-1), atol=1e-9)


def test_certain_labels_have_a_finite_loss_and_gradient():
    student = torch.tensor([[900.0, -900.0]], requires_grad=True)
    loss = distillation_loss(ANSWERS["labels"], student, [torch.tensor([[-900.0, -900.0]])], [1.0], 2.0)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_values_are_averaged_and_compared_by_their_squared_distance():
    answers = ANSWERS["values"]
    rows = [torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, 0.0]])]
    mixed = answers.mix(rows, [3, 1], math.inf)
    assert torch.equal(mixed, torch.tensor([[1.5, 3.0]]))
    assert float(answers.divergence(mixed, rows[0])) == pytest.approx((0.25 + 1.0) / 2)
    assert answers.agree(mixed, rows[0]) is None
    with pytest.raises(UserError, match="needs 2 weights"):
        answers.mix(rows, [1])


@pytest.mark.parametrize("kind", [*ROWS, "boxes"])
def test_a_model_is_at_no_distance_from_itself_and_one_teacher_is_its_own_mixture(kind):
    logits = torch.randn(6, 3)
    if kind == "boxes":
        # Two places: two classes and none, and a box.
        logits = torch.cat([torch.randn(6, 2, 3), torch.rand(6, 2, 4)], dim=-1)
    rows = ANSWERS[kind].rows(logits)
    assert ANSWERS[kind].divergence(rows, rows).abs().max() < 1e-9
    mixed = ANSWERS[kind].mix([rows, rows], [1, 2])
    if kind == "embeddings":
        # Side by side: the similarities are the same.
        mixed, rows = mixed @ mixed.T, rows @ rows.T
    assert torch.allclose(mixed, rows, atol=1e-5)


@pytest.mark.parametrize("kind", ROWS)
def test_the_loss_of_distillation_falls_to_nought_at_the_mixture(kind):
    teachers = [torch.randn(8, 3), torch.randn(8, 3)]
    student = torch.zeros(8, 3, requires_grad=True)
    if kind == "embeddings":
        # As wide as both teachers, and away from zero, which has no direction.
        student = torch.randn(8, 6, requires_grad=True)
    optimiser = torch.optim.LBFGS([student], max_iter=200, line_search_fn="strong_wolfe")

    def step():
        optimiser.zero_grad()
        loss = distillation_loss(ANSWERS[kind], student, teachers, [1, 1])
        loss.backward()
        return loss

    optimiser.step(step)
    mixed = ANSWERS[kind].mix([ANSWERS[kind].rows(rows) for rows in teachers], [1, 1])
    rows = ANSWERS[kind].rows(student.detach())
    if kind == "embeddings":
        mixed, rows = mixed @ mixed.T, rows @ rows.T
    assert torch.allclose(rows, mixed, atol=2e-2)


def test_models_of_values_are_compared_as_values():
    models = _value_models()
    batch = {"input_ids": torch.tensor([[7, 8, 9], [10, 11, 12]])}
    target = ensemble_predictions(models, [1.0, 1.0], batch)
    outputs = [model(**batch).logits.double() for model in models]
    assert torch.allclose(target, (outputs[0] + outputs[1]) / 2)
    expected = float((target - outputs[0]).square().sum(-1).mean() / 2)
    assert mean_kl(models[0], [batch], [target]) == pytest.approx(expected, rel=1e-5)


def _value_models():
    from tiny_text import config_of
    from transformers import BertForSequenceClassification

    config = config_of("classifier")
    config.id2label, config.label2id = {0: "score"}, {"score": 0}
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(BertForSequenceClassification(config).eval().requires_grad_(False))
    return models


def test_embeddings_are_mixed_by_their_similarities_whatever_their_widths():
    answers = ANSWERS["embeddings"]
    first, second = answers.rows(torch.randn(7, 5)), answers.rows(torch.randn(7, 3))
    mixed = answers.mix([first, second], [3, 1])
    assert torch.allclose(mixed @ mixed.T, (3 * first @ first.T + second @ second.T) / 4, atol=1e-6)
    assert torch.allclose(mixed.norm(dim=-1), torch.ones(7))


def test_embeddings_are_compared_by_their_similarities_alone():
    answers = ANSWERS["embeddings"]
    rows = answers.rows(torch.randn(6, 4, dtype=torch.float64))
    rotation = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64))[0]
    assert answers.divergence(rows, rows @ rotation.T).abs().max() < 1e-12
    other = answers.rows(torch.randn(6, 4, dtype=torch.float64))
    choices = [(each @ each.T / 0.05).masked_fill(torch.eye(6).bool(), -1e4).softmax(-1) for each in (rows, other)]
    expected = (choices[0] * (choices[0] / choices[1]).log()).nan_to_num(0).sum(-1)
    error = (rows @ rows.T - other @ other.T).square()
    expected += (error.sum(1) - error.diagonal()) / 5 / 0.2
    assert torch.allclose(answers.divergence(rows, other), expected)
    assert answers.divergence(rows[:1], other[:1]) == 0


def test_all_answers_have_losses_of_one_form():
    expected = list(inspect.signature(ANSWERS["classes"].label_loss).parameters)
    assert all(list(inspect.signature(each.label_loss).parameters) == expected for each in ANSWERS.values())
