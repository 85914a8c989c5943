"""What saves memory, and what is logged, leaves the training as it is."""

import numpy as np
import pytest
import torch
from test_distill import options, samples, vit
from torch.utils.checkpoint import checkpoint

from compressor.distillation import memory
from compressor.distillation.trainer import distill


def losses(folder, student=None, **fields):
    report = distill(
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
