"""`--max-memory`: the command and the Python face read teachers layer by layer."""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from command import compress
from forked import fork_command
from safetensors.torch import load_file
from tiny_text import save_plain, save_text_model
from transformers import AutoModelForCausalLM

import compressor
from compressor.errors import UserError

#: A tiny teacher takes next to nothing: nearly all of it is Python, torch and transformers.
MEMORY = "2GB"
BARE = ("--no-finetune", "--no-onnx", "--no-latency")


@pytest.fixture
def folders(tmp_path):
    teachers = [str(save_text_model(tmp_path / name, "llama", seed=seed)) for seed, name in enumerate("ab")]
    for teacher in teachers:
        model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.bfloat16)
        model.save_pretrained(teacher)
    return teachers, str(save_plain(tmp_path / "text.txt"))


def test_the_command_fuses_within_a_memory(tmp_path, capsys, folders):
    teachers, data = folders
    output = tmp_path / "student"
    code, _, errors = compress(
        capsys, "fuse", *teachers, "-d", data, "-o", output, "--max-memory", MEMORY, *BARE, "--samples", 32
    )
    assert code == 0, errors
    report = json.loads((output / "report.json").read_text())
    assert report["fusion"]["choices"]["residual"].startswith("principal")
    assert any("read layer by layer" in line for line in report["warnings"])
    assert not (tmp_path / "student.work").exists()
    weights = load_file(output / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}


def test_what_does_not_fit_is_said_before_anything_is_read(tmp_path, capsys, folders):
    teachers, data = folders
    job = ("fuse", *teachers, "-d", data, "-o", tmp_path / "student")
    for flags, message in (
        (("--max-memory", "10MB", *BARE), "give --max-memory"),
        (("--max-memory", MEMORY, "--no-onnx"), "add --no-finetune --no-latency"),
        (("--max-memory", MEMORY, *BARE, "--polish", 10), "--polish"),
        (("--max-memory", "8 litres"), "a size such as 8GB"),
    ):
        code, _, errors = compress(capsys, *job, *flags)
        assert code == 2 and message in errors, errors


def fuse_and_die(arguments):
    from compressor.cli import run_command
    from compressor.fusion.build.finished_layers import FinishedLayers

    add = FinishedLayers.add

    def add_and_die(self, *more):
        add(self, *more)
        os.kill(os.getpid(), signal.SIGKILL)

    FinishedLayers.add = add_and_die
    run_command(arguments)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="sends a POSIX signal")
def test_a_killed_command_goes_on_with_resume(tmp_path, capsys, folders):
    teachers, data = folders
    job = ["fuse", *teachers, "-d", data, "--max-memory", MEMORY, *BARE, "--samples", "32"]
    assert compress(capsys, *job, "-o", tmp_path / "whole")[0] == 0
    killed = [*job, "-o", str(tmp_path / "killed")]
    child = multiprocessing.get_context("fork").Process(target=fuse_and_die, args=(killed,))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    code, _, errors = compress(capsys, *killed)
    assert code == 2 and "--resume" in errors
    assert compress(capsys, *killed, "--resume")[0] == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="sends a POSIX signal")
def test_a_command_killed_at_any_moment_goes_on(tmp_path, capfd, folders):
    """Ten moments over the time that a whole run takes: of loading, evaluating, fusing and writing."""
    teachers, data = folders
    job = ["fuse", *teachers, "-d", data, "--max-memory", MEMORY, *BARE, "--samples", "32", "-o"]
    durations = []
    for name in ("first", "whole"):
        start = time.monotonic()
        child = fork_command(*job, tmp_path / name)
        child.join(300)
        assert child.exitcode == 0
        durations.append(time.monotonic() - start)
    duration, draw, moments = min(durations), random.Random(0), 10
    whole, killed = load_file(tmp_path / "whole" / "model.safetensors"), 0
    for moment in range(moments):
        output = tmp_path / str(moment)
        child = fork_command(*job, output)
        child.join(duration * (moment + draw.random()) / moments)
        # Not `os.kill`: a run that was quicker than those has ended, been waited for, and has no process any more.
        child.kill()
        child.join(60)
        killed += child.exitcode == -signal.SIGKILL
        if not (output / "model.safetensors").exists():
            child = fork_command(*job, output, "--resume")
            child.join(300)
            assert child.exitcode == 0, capfd.readouterr().err
        again = load_file(output / "model.safetensors")
        assert again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)
        assert not (tmp_path / f"{moment}.work").exists()
    # Other work on the machine makes some runs quicker than the two that were timed: they end before their moment.
    assert killed >= moments // 2


def test_python_takes_a_memory_too(folders):
    teachers, data = folders
    student = compressor.fuse(teachers, 0.5, data, max_memory=MEMORY, samples=32)
    assert {parameter.dtype for parameter in student.model.parameters()} == {torch.bfloat16}
    models = [AutoModelForCausalLM.from_pretrained(teacher) for teacher in teachers]
    with pytest.raises(UserError, match="max_memory reads teachers from folders"):
        compressor.fuse(models, 0.5, data, max_memory=MEMORY)


def test_the_command_keeps_the_precision_of_the_teachers_files(tmp_path, capsys, folders):
    teachers, data = folders
    # Float32 holds each bfloat16 number, so it says nothing new of these teachers.
    for flags, dtype in (((), torch.bfloat16), (("--dtype", "float32"), torch.float32)):
        output = tmp_path / str(dtype)
        job = ("fuse", *teachers, "-d", data, "-o", output, "--samples", 32, "--no-onnx", "--no-latency")
        code, _, errors = compress(capsys, *job, "--steps", 2, "--batch-size", 4, *flags)
        assert code == 0, errors
        assert {value.dtype for value in load_file(output / "model.safetensors").values()} == {dtype}
        assert json.loads((output / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
