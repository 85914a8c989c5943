"""What users, scripts and old folders rely on does not change by accident: flags, recipe keys, report keys, weights.

The golden values lie in `golden/`.  A deliberate change writes them anew with

    python tests/test_golden.py

Weights are compared bit for bit where torch and the processor are those of the golden run.  Elsewhere matrix products
round otherwise, and the students' answers are compared instead.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from few_samples import few_samples_are_enough
from tiny_text import VOCABULARY, config_of

GOLDEN = Path(__file__).parent / "golden"
#: Largest difference of a student's answers on another machine, relative to the largest answer.
ANSWERS_TOLERANCE = 1e-2


def read(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def command_flags():
    """{command: [its parameters as they are typed]}."""
    import typer.main

    from compressor.cli.app import app

    commands = typer.main.get_command(app).commands
    return {
        name: sorted(
            flag
            for parameter in command.params
            for flag in ([*parameter.opts, *parameter.secondary_opts])
            if parameter.param_type_name == "option"
        )
        for name, command in sorted(commands.items())
    }


def recipe_keys():
    """Every dotted path of a recipe."""
    from compressor.recipe import build_recipe

    return sorted(paths_of(build_recipe({"teachers": ["vit-a"]}).model_dump(mode="json")))


def paths_of(value, prefix="", depth=9):
    """Dotted paths of the keys of nested values; entries of a list share one."""
    if isinstance(value, list):
        return {path for item in value for path in paths_of(item, prefix, depth)}
    if not isinstance(value, dict) or not depth:
        return {prefix} if prefix else set()
    found = {prefix} if prefix else set()
    for key, item in value.items():
        found |= paths_of(item, f"{prefix}.{key}" if prefix else str(key), depth - 1)
    return found


#: Parts of a report whose keys are names of teachers, stages, packages or classes.
NAMED = {"certificate", "layers", "shares", "weights", "seconds", "packages", "recipe", "head"}


def report_keys(folder):
    """Every path of a report's keys, without what is named after teachers, stages and the like."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    # Whether any sample of so few is answered otherwise depends on rounding.
    report["differences"]["samples"] = []
    return sorted(path for path in paths_of(report) if NAMED.isdisjoint(path.split(".")[:-1]))


@cache
def text_student(kind):
    """A student of half width of two tiny teachers, refitted on random tokens, and its answers to a fixed input."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    import compressor
    from compressor.models.folder.save import fingerprint

    torch.set_num_threads(1)
    model_class = {"classifier": AutoModelForSequenceClassification, "llama": AutoModelForCausalLM}[kind]
    teachers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        teachers.append(model_class.from_config(config_of(kind)).eval())
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(6, len(VOCABULARY), (80, 12), generator=generator)
    masks = torch.ones(16, 12, dtype=torch.long)
    batches = [{"input_ids": part, "attention_mask": masks} for part in tokens.split(16)]
    student = compressor.fuse(
        teachers, width=0.5, calibration=batches, polish=20, weights="equal", mixture="probabilities"
    ).model
    with torch.no_grad():
        answers = student(**batches[0]).logits
    return {"fingerprint": fingerprint(student), "answers": [round(x, 4) for x in answers.flatten()[:24].tolist()]}


def demo_student(folder):
    """The student of the README's first command."""
    from compressor.cli import run_command
    from compressor.models.folder.save import fingerprint

    flags = ["--width", "0.5", "vit-a", "vit-b", "-o", str(folder), "--no-latency", "--no-onnx"]
    assert run_command(["fuse", *flags]) == 0
    return {"fingerprint": fingerprint(folder)}


def machine():
    """What two runs must have in common to round alike: a hypervisor's name of a processor is that of many."""
    from compressor.pipeline.environment import environment

    found = environment()
    return {**{name: found[name] for name in ("torch", "cpu")}, "rounding": rounding()}


def rounding():
    """A checksum of sums and functions whose last digits depend on the processor's kernels."""
    import hashlib

    import torch

    digest = hashlib.sha256()
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for rows, inner, columns in ((7, 31, 5), (64, 32, 48), (129, 257, 65), (960, 33, 33)):
            left = torch.randn(rows, inner, generator=generator, dtype=dtype)
            right = torch.randn(inner, columns, generator=generator, dtype=dtype)
            product = left @ right
            gram = left.T @ left + torch.eye(inner, dtype=dtype)
            for value in (product, product.softmax(-1), torch.nn.functional.gelu(product), product.tanh().exp(),
                          torch.linalg.solve(gram, left.T), torch.linalg.eigh(gram).eigenvectors,
                          torch.linalg.svd(left, full_matrices=False).S):  # fmt: skip
                digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def tiny_run(folder, root):
    """A whole run of the command on two tiny ViTs, into `folder`."""
    from command import tiny_recipe, write_recipe
    from tiny import save_images, save_vit

    from compressor.cli import run_command

    teachers = [save_vit(root / name, seed=seed) for name, seed in (("a", 0), ("b", 1))]
    save_images(root / "images" / "train", per_class=6, seed=0)
    save_images(root / "images" / "test", per_class=3, seed=1)
    values = tiny_recipe(teachers, root / "images", folder, bench={"latency": True}, export={"onnx": True})
    assert run_command(["run", str(write_recipe(root / "recipe.yaml", values))]) == 0


def test_no_command_lost_or_gained_a_flag_unnoticed():
    assert command_flags() == read("flags")


def test_no_recipe_lost_or_gained_a_key_unnoticed():
    assert recipe_keys() == read("recipe")


def test_no_report_lost_or_gained_a_key_unnoticed(finished_run):
    assert report_keys(finished_run[0]) == read("report")


@pytest.mark.parametrize("kind", ["classifier", "llama"])
def test_a_student_keeps_its_weights(kind):
    golden = read("students")
    student = text_student(kind)
    if machine() == golden["machine"]:
        assert student["fingerprint"] == golden[kind]["fingerprint"]
    largest = max(map(abs, golden[kind]["answers"]))
    assert student["answers"] == pytest.approx(golden[kind]["answers"], abs=ANSWERS_TOLERANCE * largest)


@pytest.mark.slow
def test_the_demo_keeps_its_weights(tmp_path, capsys):
    golden = read("students")
    if machine() != golden["machine"]:
        pytest.skip("the golden student was made with another torch or on another processor")
    assert demo_student(tmp_path / "student") == golden["demo"]


def _write(name, values):
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    (GOLDEN / f"{name}.json").write_text(text, encoding="utf-8")


def _write_all(root):
    few_samples_are_enough()
    _write("flags", command_flags())
    _write("recipe", recipe_keys())
    tiny_run(root / "student", root)
    _write("report", report_keys(root / "student"))
    students = {kind: text_student(kind) for kind in ("classifier", "llama")}
    _write("students", {"machine": machine(), **students, "demo": demo_student(root / "demo")})


if __name__ == "__main__":
    import os
    import tempfile

    # The same as in conftest.py.
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPRESSOR_CACHE"] = str(Path(folder, "cache"))
        _write_all(Path(folder))
