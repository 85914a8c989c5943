"""What saves memory, and what is logged, leaves the training as it is."""

from functools import partial

import numpy as np
import pytest
import torch
from distilling import options, samples, vit
from torch.utils.checkpoint import checkpoint

from compressor.distillation import memory
from compressor.distillation.distill import train_student
from compressor.testing.tiny_configs import tiny_config


def losses(folder, student=None, **fields):
    report = train_student(
        student or vit(2), [vit(0)], [1], samples(), options(**{"steps": 3, **fields}), seed=5, work_dir=folder
    )
    return [loss for _, loss in report.loss]


def test_less_memory_gives_the_same_steps(tmp_path, monkeypatch):
    plain = losses(tmp_path / "plain")
    calls = []
    monkeypatch.setattr(memory, "checkpoint", lambda *a, **k: calls.append(1) or checkpoint(*a, **k))
    assert losses(tmp_path / "recomputed", recompute=True) == plain
    assert len(calls) == 2 * 3
    np.testing.assert_allclose(losses(tmp_path / "parts", accumulate=4), plain, rtol=1e-4)


def test_a_batch_is_computed_in_as_few_parts_as_its_logits_ask_for(monkeypatch):
    config = tiny_config("llama")
    texts = [{"input_ids": torch.zeros(length, dtype=torch.int64)} for length in (3, 12, 7)]
    one = 12 * config.vocab_size
    asked = partial(options, batch_size=12)
    assert memory.batch_parts(config, texts, asked()) == 1
    monkeypatch.setattr(memory, "MOST_TRAINING_LOGITS", 5 * one)
    # Twelve samples in parts of four: of five they cannot be.
    assert memory.batch_parts(config, texts, asked()) == 3
    assert memory.batch_parts(config, texts, asked(accumulate=2)) == 2
    monkeypatch.setattr(memory, "MOST_TRAINING_LOGITS", one - 1)
    assert memory.batch_parts(config, texts, asked()) == 12
    # Classifiers make few, however large their vocabulary.
    assert memory.batch_parts(tiny_config("bert"), texts, asked()) == 1


def test_a_lower_precision_is_near_and_leaves_the_weights_and_the_student_as_they_were(tmp_path):
    student = vit(2)
    found = losses(tmp_path / "low", student, precision="bfloat16")
    plain = losses(tmp_path / "plain")
    assert found != plain
    np.testing.assert_allclose(found, plain, rtol=0.05)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert "forward" not in vars(student)


def test_every_step_is_logged(tmp_path):
    pytest.importorskip("tensorboardX")
    losses(tmp_path / "run", tensorboard=str(tmp_path / "log"))
    (file,) = (tmp_path / "log" / "rate-0.001").iterdir()
    assert file.read_bytes().count(b"train/loss") == 3
