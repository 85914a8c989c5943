"""The number of threads is one for every stage, and what is said about it agrees."""

from __future__ import annotations

import json
import re

import onnxruntime
import pytest
import torch
from command import compress


@pytest.fixture
def sessions(monkeypatch):
    """Threads of every ONNX Runtime session that is made."""
    made = []
    original = onnxruntime.InferenceSession.__init__

    def init(self, path, sess_options=None, *args, **kwargs):
        made.append(sess_options.intra_op_num_threads if sess_options is not None else 0)
        original(self, path, sess_options, *args, **kwargs)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", init)
    return made


@pytest.mark.slow
def test_every_stage_has_the_threads_that_were_asked_for(capsys, monkeypatch, sessions, vit_a, image_folder, tmp_path):
    """Fusing, finetuning, quantising, checking and timing, with three threads, and what report and card say of it."""
    from threadpoolctl import threadpool_info

    from compressor.distillation import distill
    from compressor.fusion import fuse

    used = []
    for module, name in ((fuse, "fuse_models"), (distill, "train_student")):
        original = getattr(module, name)

        def spy(*args, original=original, **kwargs):
            pools = {pool["num_threads"] for pool in threadpool_info()}
            used.append((torch.get_num_threads(), pools))
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, spy)
    from compressor.pipeline.run import initial_student

    monkeypatch.setattr(initial_student, "fuse_models", fuse.fuse_models)
    code, out, err = compress(
        capsys, "fuse", vit_a, "--data", image_folder, "--samples", 8, "--steps", 1, "--batch-size", 4, "--formats",
        "onnx,onnx-int8", "--threads", 3, "-o", tmp_path / "s",
    )  # fmt: skip
    assert code == 0, err
    assert used == [(3, {3})] * 2
    # Timing's sessions too; those that only read a graph's inputs compute nothing.
    assert len(sessions) >= 3 and set(sessions) == {3}
    assert "with 3 threads" in out
    report = json.loads((tmp_path / "s" / "report.json").read_text())
    assert report["environment"]["threads"] == 3
    assert {timed["threads"] for model in report["latency"]["models"].values() for timed in model.values()} == {3}
    card = (tmp_path / "s" / "README.md").read_text()
    assert "with 3 threads" in card and re.search(r"threads\W+3\b", card.split("## Made with")[1].split("##")[0])
    assert torch.get_num_threads() == 1, "afterwards as before"


@pytest.mark.parametrize("threads", [1, 2])
def test_doctor_and_timing_agree(capsys, monkeypatch, vit_a, threads):
    from compressor.bench import latency
    from compressor.pipeline import timing

    monkeypatch.setattr(latency, "available_threads", lambda: 64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        doctor = json.loads(compress(capsys, "doctor", "--json")[1])["threads"]["torch"]
        from compressor.models.load import load_teacher

        contender = timing.TimedModel("a", (load_teacher(str(vit_a)).model,))
        timed = timing.time_contenders([contender], batch_size=1, seconds=0.01)["a"].torch.threads
    finally:
        torch.set_num_threads(before)
    assert doctor == timed == threads


@pytest.mark.parametrize(
    ("value", "said"),
    [("abc", "no number of threads"), ("0", "no number"), ("999", "more threads than cores"), ("1", None)],
)
def test_doctor_says_what_is_wrong_with_the_environment(capsys, monkeypatch, value, said):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    problems = [line for line in json.loads(compress(capsys, "doctor", "--json")[1])["problems"] if "OMP_NUM" in line]
    assert bool(problems) is bool(said) and (not said or said in problems[0])


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_number_that_is_none_is_refused(capsys, value):
    code, _, err = compress(capsys, "fuse", "vit-a", "--threads", value)
    assert code == 2 and "--threads" in err and err.count("\n") == 1
