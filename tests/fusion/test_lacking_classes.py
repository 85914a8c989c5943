"""Rows of classes that a teacher lacks, fitted to samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import save_vit

from compressor.fusion.classes import SAMPLES_PER_CLASS, fit_lacking_classes
from compressor.models.inherited.class_heads import with_common_classes
from compressor.models.load import load_teacher

NAMES = ("cat", "dog", "ant", "bee")


@torch.no_grad()
def samples(count, seed):
    """Noisy images of four patterns in turn, and their labels."""
    patterns = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 4
    noise = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return patterns[labels] + noise, labels


@torch.no_grad()
def expert(folder, seed, known):
    """A teacher that tells two of the patterns apart, by the means of its random features."""
    teacher = load_teacher(str(save_vit(folder, seed=seed, classes=tuple(NAMES[k] for k in known))))
    pixels, labels = samples(400, seed=1)
    features = teacher.model.vit(pixel_values=pixels).last_hidden_state[:, 0]
    means = torch.stack([features[labels == k].mean(0) for k in range(4)])
    noise = torch.linalg.inv(torch.cov((features - means[labels]).T) + 0.01 * torch.eye(features.shape[1]))
    weight = means[list(known)] @ noise
    teacher.model.classifier.weight.copy_(weight)
    teacher.model.classifier.bias.copy_(-0.5 * (weight * means[list(known)]).sum(1))
    return teacher


@pytest.fixture
def experts(tmp_path):
    """Two experts of two classes each, as teachers of all four."""
    pair = [expert(tmp_path / "a", 0, (0, 1)), expert(tmp_path / "b", 1, (2, 3))]
    return with_common_classes(pair, "union")


@torch.no_grad()
def accuracy(teachers):
    pixels, labels = samples(200, seed=2)
    mean = sum(teacher.model(pixel_values=pixels).logits.log_softmax(-1) for teacher in teachers)
    return float((mean.argmax(-1) == labels).double().mean())


@pytest.mark.parametrize("labelled", [False, True])
def test_experts_learn_each_others_classes(experts, labelled):
    pixels, labels = samples(160, seed=3)
    batch = {"pixel_values": pixels} | ({"labels": labels} if labelled else {})
    before = accuracy(experts)
    own = [teacher.model.classifier.weight.clone() for teacher in experts]
    (line,) = fit_lacking_classes(experts, [batch])
    assert ("160 labels" if labelled else "160 unlabelled samples") in line
    assert before < 0.9 and accuracy(experts) > 0.95 > before
    # Also each alone: it was never trained on two of the four.
    assert all(accuracy([teacher]) > 0.75 for teacher in experts)
    for teacher, weight in zip(experts, own, strict=True):
        known = [index for index in range(4) if index not in teacher.lacking]
        assert torch.equal(teacher.model.classifier.weight[known], weight[known])
        assert not torch.equal(teacher.model.classifier.weight[list(teacher.lacking)], weight[list(teacher.lacking)])


def test_few_samples_and_full_teachers_change_nothing(experts):
    pixels, _ = samples(4 * SAMPLES_PER_CLASS - 1, seed=3)
    before = [teacher.model.classifier.weight.clone() for teacher in experts]
    (line,) = fit_lacking_classes(experts, [{"pixel_values": pixels}])
    assert "too few" in line
    assert fit_lacking_classes(experts, None)
    assert fit_lacking_classes([replace(teacher, lacking=()) for teacher in experts], [{"pixel_values": pixels}]) == []
    for teacher, weight in zip(experts, before, strict=True):
        assert torch.equal(teacher.model.classifier.weight, weight)
