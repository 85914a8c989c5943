"""A finetune that is killed at any moment (SIGKILL: nothing is tidied up) and resumed is as if it had not been."""

import json
import multiprocessing
import os
import random
import signal
import threading
from dataclasses import asdict

import pytest
from distilling import options, same, samples, vit
from safetensors.torch import load_file, save_file

from compressor.distillation.distill import train_student

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="sends a POSIX signal")

STEPS = 16


def train(folder, kill_at=None, after=0.0):
    """Finetune or go on with it, and write what came of it; in a process that dies some seconds after a step."""

    def progress(step, *_):
        if step == kill_at:
            threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)).start()

    student = vit(2, width=8)
    run = options(steps=STEPS, checkpoint_every=2, validate_every=3, validation=0.25, patience=5, augment="crop-flip")
    report = train_student(
        student, [vit(0)], [1], samples(), run, seed=5, work_dir=folder / "work", resume=True, progress=progress
    )
    save_file(student.state_dict(), folder / "student.safetensors")
    (folder / "report.json").write_text(json.dumps(asdict(report)))


def test_killed_and_resumed_gives_the_same_weights(tmp_path):
    draw = random.Random()
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    train(tmp_path / "whole")
    for _ in range(4):
        # Forked, so that nothing is imported anew.
        death = draw.randint(1, STEPS), draw.uniform(0, 0.03)
        child = multiprocessing.get_context("fork").Process(target=train, args=(tmp_path / "killed", *death))
        child.start()
        child.join(120)
        assert child.exitcode in (0, -signal.SIGKILL)
    train(tmp_path / "killed")
    whole, resumed = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "killed"))
    assert whole["best_step"] > 0
    for key in ("loss", "judged", "best_step", "steps"):
        assert whole[key] == resumed[key]
    assert same(*(load_file(tmp_path / name / "student.safetensors") for name in ("whole", "killed")))
