"""Distillation and evaluation on another device (a pretended one, which refuses operands of two) are the CPU's."""

import copy

import pytest
import torch
from pretend_device import pretend_device
from three_layers import OPTIONS, bert, inputs, llama, vit

from compressor.bench import accuracy
from compressor.data.tensor_batches import TensorBatches
from compressor.distillation.objective import FeatureTargets, Objective
from compressor.fusion import fuse_models
from compressor.layer_maps import attention_pairs_of
from compressor.models.tasks.table import task_of_model
from compressor.pipeline.scores.evaluation import Evaluator
from compressor.recipe import FinetuneOptions

STEPS = 3


def labelled(make):
    draw = torch.Generator().manual_seed(4)
    batches = inputs(make, samples=24, batch=8)
    if make is not llama:
        for batch in batches:
            batch["labels"] = torch.randint(0, 3, (8,), generator=draw)
    return batches


@pytest.fixture(params=[vit, bert, llama], ids=lambda make: make.__name__)
def job(request):
    """Teachers, their student, targets of all losses, and samples."""
    make = request.param
    teachers = [make(seed) for seed in (1, 2)]
    result = fuse_models([(str(k), teacher) for k, teacher in enumerate(teachers)], 0.5, inputs(make), OPTIONS)
    pairs = attention_pairs_of(result.model.config, [teacher.config for teacher in teachers])
    return teachers, result.model, FeatureTargets(result.passages, pairs), labelled(make)


def moved(batches, device):
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]


def distilled(teachers, student, targets, batches, device):
    """A few steps of all losses, as the Trainer takes them; the student's weights on the CPU, and a validation."""
    weight = 0.3 if "labels" in batches[0] else 0.0
    options = FinetuneOptions(losses={"hidden": 1.0, "relations": 1.0}, label_weight=weight, batch_size=8)
    objective = Objective(student, [(teacher, 0.5) for teacher in teachers], options, targets)
    student.requires_grad_(True)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-2, foreach=False)
    for step in range(STEPS):
        loss, _ = objective.loss(student, moved(batches, device)[step % len(batches)], step / STEPS)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    samples = [{name: value[k] for name, value in batch.items()} for batch in batches for k in range(8)]
    return objective.evaluate(student, samples), student.to("cpu").state_dict()


@pytest.fixture(autouse=True)
def without_inference_mode(monkeypatch):
    """Its tensors have no versions, which wrapped ones need."""
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    monkeypatch.setattr(accuracy, "_forward", torch.no_grad()(accuracy._forward.__wrapped__))


def test_distillation_gives_the_cpus_student(job):
    teachers, student, targets, batches = job
    kl, here = distilled(teachers, copy.deepcopy(student), targets, batches, "cpu")
    assert any(not torch.equal(here[name], value) for name, value in student.state_dict().items())
    with pretend_device() as device:
        there = [model.to(device) for model in (*map(copy.deepcopy, teachers), copy.deepcopy(student))]
        its_kl, weights = distilled(there[:-1], there[-1], targets, batches, device)
    assert its_kl == kl
    assert all(torch.equal(weights[name], here[name]) for name in here)


def test_evaluation_gives_the_cpus_scores(job):
    teachers, student, _, batches = job
    task = task_of_model(student)
    here = Evaluator(teachers, [0.5, 0.5], TensorBatches(batches, "samples", task))
    score = here.score(student)
    with pretend_device() as device:
        models = [model.to(device) for model in (*teachers, student)]
        there = Evaluator(models[:-1], [0.5, 0.5], TensorBatches(batches, "samples", task))
        assert there.score(models[-1]) == score
    assert there.ensemble == here.ensemble and there.teachers == here.teachers
