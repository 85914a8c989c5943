"""`torchrun -m compressor fuse`: processes share the samples of a fusion, and the first one writes and speaks."""

import pytest
import torch
from launched import together
from safetensors.torch import load_file
from test_max_memory import BARE, MEMORY
from tiny_text import save_plain, save_text_model
from transformers import AutoModelForCausalLM

from compressor.cli import run_command


@pytest.mark.parametrize("flags", [(), ("--max-memory", MEMORY)])
def test_two_processes_write_the_student_of_one(tmp_path, capfd, flags):
    teachers = [strong_teacher(tmp_path / name, seed) for seed, name in enumerate("ab")]
    data = str(save_plain(tmp_path / "text.txt"))
    job = ["fuse", *teachers, "-d", data, *BARE, "--samples", "63", "--effort", "fast", "--polish", "0", *flags]
    assert run_command([*job, "-o", str(tmp_path / "one")]) == 0
    alone = capfd.readouterr()
    together(lambda rank: exit_unless_zero(run_command([*job, "-o", str(tmp_path / "two")])))
    shared = capfd.readouterr()
    assert len(shared.out.splitlines()) == len(alone.out.splitlines())
    assert not (tmp_path / "two.work").exists()
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    ours, its = (torch.cat([weights[name].flatten() for name in one]) for weights in (two, one))
    assert float((ours - its).norm() / its.norm()) < 1e-5


def strong_teacher(folder, seed):
    """Weights so large that activations differ from token to token: else a refit would amplify rounding."""
    save_text_model(folder, "llama", seed=seed)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    model.save_pretrained(folder)
    return str(folder)


def exit_unless_zero(code):
    assert code == 0
