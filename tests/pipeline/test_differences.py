"""How a student differs from the ensemble: counted right for every kind of answer, and shown as the model saw it."""

from __future__ import annotations

import base64
import io
import math
from types import SimpleNamespace

import pytest
import torch
from tiny_text import VOCABULARY

from compressor.models.tasks.table import TASKS
from compressor.models.tasks.task import IGNORED
from compressor.pipeline.scores.differences import Breakdown, differences_report
from compressor.pipeline.scores.shown_samples import PICTURE_PIXELS, TEXT_CHARACTERS, sample_report


def random_log_probs(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


class Words:
    """A tokenizer of the tests' vocabulary."""

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(VOCABULARY[int(index) % len(VOCABULARY)] for index in ids)


@pytest.mark.parametrize("sizes", [(24,), (7, 7, 10), (1,) * 24])
def test_scores_of_classes_and_agreement_are_counted_whatever_the_batches(sizes):
    labels = torch.arange(24) % 5
    model, ensemble = (random_log_probs(24, 4, seed=seed) for seed in (0, 1))
    breakdown = Breakdown(TASKS["image-classification"], keep=3)
    for part in torch.arange(24).split(sizes):
        breakdown.add(model[part], {"pixel_values": torch.zeros(len(part), 1)}, labels[part], ensemble[part])
    predicted, reference = model.argmax(-1), ensemble.argmax(-1)
    # Class 4 is one that the model lacks: its samples count, and are wrong.
    expected = [float((predicted[labels == c] == c).double().mean()) for c in range(5)]
    assert breakdown.scores("class") == pytest.approx(expected)
    assert breakdown.counts() == {"class": [5, 5, 5, 5, 4]}
    assert breakdown.agreement == float((predicted == reference).double().mean())
    kl = (ensemble.exp() * (ensemble - model)).sum(-1)
    furthest = [index for index in kl.argsort(descending=True).tolist() if predicted[index] != reference[index]]
    assert [sample.index for sample in breakdown.furthest] == furthest[:3]
    for sample in breakdown.furthest:
        assert sample.kl == pytest.approx(float(kl[sample.index]), abs=1e-5)
        assert (sample.ensemble[0], sample.student[0]) == (reference[sample.index], predicted[sample.index])
        assert sample.label == labels[sample.index]


def test_without_labels_the_ensemble_answers_stand_for_them():
    model, ensemble = (random_log_probs(20, 3, seed=seed) for seed in (0, 1))
    breakdown = Breakdown(TASKS["image-classification"])
    breakdown.add(model, {"pixel_values": torch.zeros(20, 1)}, None, ensemble)
    report = differences_report({"student": breakdown}, {0: "cat", 1: "dog", 2: "bird"}, [])
    assert report["metric"] == "agreement"
    rows = report["groups"][0]["rows"]
    assert sum(row["count"] * row["scores"][0] for row in rows) == pytest.approx(20 * report["agreement"][0])
    assert {row["name"] for row in rows} <= {"cat", "dog", "bird"}


@pytest.mark.parametrize("sizes", [(6,), (1, 2, 3)])
def test_scores_of_domains_are_of_their_own_samples_whatever_the_batches(sizes):
    domains = torch.tensor([0, 1, 1, 0, 1, 1])
    tokens = torch.randint(6, 12, (6, 10), generator=torch.Generator().manual_seed(0))
    model, ensemble = (random_log_probs(6, 10, 12, seed=seed) for seed in (0, 1))
    breakdown = Breakdown(TASKS["causal-lm"], domains=(("films", "plots"), domains))
    for part in torch.arange(6).split(sizes):
        inputs = {"input_ids": tokens[part], "attention_mask": torch.ones_like(tokens[part])}
        breakdown.add(model[part], inputs, tokens[part], ensemble[part])
    nll = -model[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    expected = [math.exp(float(nll[domains == index].mean())) for index in (0, 1)]
    report = differences_report({"student": breakdown}, {}, [])
    [group] = [group for group in report["groups"] if group["by"] == "domain"]
    assert [row["name"] for row in group["rows"]] == ["films", "plots"]
    assert [row["count"] for row in group["rows"]] == [18, 36]
    assert [row["scores"][0] for row in group["rows"]] == pytest.approx(expected)


def test_perplexity_by_position_counts_each_prediction_once():
    tokens = torch.randint(6, 12, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 20, dtype=torch.long)
    model, ensemble = (random_log_probs(3, 20, 12, seed=seed) for seed in (0, 1))
    breakdown = Breakdown(TASKS["causal-lm"], keep=2)
    breakdown.add(model, {"input_ids": tokens, "attention_mask": mask}, tokens, ensemble)
    # Predictions 1 to 8, 9 to 16, 17 to 19 of every row.
    nll = -model[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    expected = [math.exp(float(nll[:, a:b].mean())) for a, b in ((0, 8), (8, 16), (16, 19))]
    assert breakdown.scores("position") == pytest.approx(expected)
    assert breakdown.counts() == {"position": [24, 24, 9]}
    report = differences_report({"student": breakdown}, {}, [])
    assert [row["name"] for row in report["groups"][0]["rows"]] == ["1 to 8", "9 to 16", "17 to 32"]
    for sample in breakdown.furthest:
        following = sample.position + 1
        assert sample.label == (tokens[sample.index, following] if following < 20 else None)


def test_texts_are_grouped_by_class_and_by_length():
    mask = torch.tensor([[1] * length + [0] * (12 - length) for length in (3, 8, 9, 12)])
    inputs = {"input_ids": torch.ones(4, 12, dtype=torch.long), "attention_mask": mask}
    breakdown = Breakdown(TASKS["text-classification"])
    breakdown.add(random_log_probs(4, 2, seed=0), inputs, torch.tensor([0, 1, 1, 1]), random_log_probs(4, 2, seed=1))
    assert breakdown.counts() == {"class": [1, 3], "length": [2, 2]}


def test_padding_is_no_answer():
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    labels = torch.tensor([[0, 1, IGNORED, IGNORED, IGNORED], [1, 1, 0, 0, IGNORED]])
    model, ensemble = (random_log_probs(2, 5, 2, seed=seed) for seed in (0, 1))
    inputs = {"input_ids": torch.ones(2, 5, dtype=torch.long), "attention_mask": mask}
    counted = []
    for known in (labels, None):
        breakdown = Breakdown(TASKS["token-classification"], keep=6)
        breakdown.add(model, inputs, known, ensemble)
        counted.append(sum(breakdown.counts()["class"]))
        assert breakdown.positions == 8
        assert all(mask[sample.index, sample.position] for sample in breakdown.furthest)
    assert counted == [6, 8]


def shown(task, inputs, model, ensemble, processor, labels=None):
    breakdown = Breakdown(TASKS[task], keep=6)
    breakdown.add(model, inputs, labels, ensemble)
    return [sample_report(sample, TASKS[task], processor, {0: "cat", 1: "dog"}) for sample in breakdown.furthest]


def far_apart(*shape):
    """Two models that never agree."""
    model = torch.full((*shape, 2), 0.1)
    model[..., 0] = 0.9
    return model.log(), model.flip(-1).log()


@pytest.mark.parametrize("channels, size", [(1, 8), (2, 8), (3, 200), (4, 8)])
def test_a_picture_is_what_the_model_saw(channels, size):
    from PIL import Image

    mean, deviation = [0.4] * channels, [0.25] * channels
    values = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    processor = SimpleNamespace(image_mean=mean, image_std=deviation)
    (sample,) = shown("image-classification", {"pixel_values": (values - 0.4) / 0.25}, *far_apart(1), processor)
    image = Image.open(io.BytesIO(base64.b64decode(sample["picture"].partition(",")[2])))
    assert max(image.size) <= PICTURE_PIXELS
    if size <= PICTURE_PIXELS:
        assert image.getpixel((3, 2)) == pytest.approx(float(values[0, 0, 2, 3]) * 255, abs=1) or channels > 2
    assert (sample["ensemble"]["answer"], sample["student"]["answer"]) == ("dog", "cat")
    assert sample["text"] is None and sample["label"] is None


@pytest.mark.parametrize("task", ["text-classification", "causal-lm", "masked-lm", "token-classification"])
def test_texts_are_cut(task):
    tokens = torch.randint(6, len(VOCABULARY), (1, 300), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    answers = far_apart(1) if task == "text-classification" else far_apart(1, 300)
    labels = tokens if task.endswith("lm") else None
    (sample,) = shown(task, inputs, *answers, Words(), labels if labels is None else labels % 2)
    assert 0 < len(sample["text"]) <= TEXT_CHARACTERS and sample["picture"] is None


@pytest.mark.parametrize("task", ["masked-lm", "token-classification"])
def test_a_text_is_shown_without_its_padding(task):
    tokens = torch.tensor([[6, 7, 8, 9, 0, 0, 0, 0]])
    inputs = {"input_ids": tokens, "attention_mask": (tokens != 0).long()}
    (sample,) = shown(task, inputs, *far_apart(1, 8), Words())
    assert VOCABULARY[0] == "[PAD]" and "[PAD]" not in sample["text"] and sample["text"]
