"""Configs, indices and checkpoints that are broken: one line, and never an advice to run a pickle."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from command import compress, tiny_recipe, write_recipe
from tiny_text import save_text_model


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Folder of a tiny decoder."""
    folder = tmp_path_factory.mktemp("decoder") / "decoder"
    save_text_model(folder, "decoder")
    return folder


def changed(folder, target, **fields):
    """A copy of a model with other fields in its config; `...` takes one away."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    values = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))
    return target


def refused(capsys, *arguments):
    """The one line of a command that must refuse its input."""
    code, out, err = compress(capsys, *arguments)
    assert (code, out) == (2, ""), (arguments, err)
    assert err.startswith("error: ") and err.count("\n") == 1 and "this is a bug" not in err, (arguments, err)
    for word in ("weights_only", "torch.load", "no space left"):
        assert word not in err, err
    return err


IMAGES = [
    ("hidden_size", -4), ("hidden_size", 0), ("hidden_size", "six"), ("hidden_size", None), ("hidden_size", 3.5),
    ("hidden_size", True), ("num_attention_heads", 0), ("num_attention_heads", -2), ("num_hidden_layers", 0),
    ("num_hidden_layers", -1), ("num_hidden_layers", "six"), ("intermediate_size", 0), ("intermediate_size", -1),
    ("patch_size", 0), ("patch_size", -1), ("patch_size", 32), ("patch_size", [8]), ("image_size", 0),
    ("image_size", 4), ("image_size", [16, 16, 16]), ("num_channels", -1), ("num_channels", 0), ("hidden_act", "nope"),
    ("hidden_dropout_prob", 2.0), ("hidden_dropout_prob", -1.0), ("layer_norm_eps", "x"), ("architectures", [3]),
    ("architectures", [None]), ("architectures", "ViTForImageClassification"),
    ("is_encoder_decoder", True),
]  # fmt: skip
TEXTS = [
    ("vocab_size", 0), ("vocab_size", -1), ("vocab_size", "x"), ("n_positions", 0), ("n_positions", -1),
    ("n_positions", "x"), ("n_positions", None), ("n_head", 0), ("n_head", 3), ("n_embd", -4), ("n_embd", 0),
    ("n_embd", 15), ("activation_function", "nope"), ("resid_pdrop", 2.0),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), IMAGES, ids=str)
def test_a_broken_config_of_an_image_model(capsys, tmp_path, vit_a, field, value):
    broken = changed(vit_a, tmp_path / "broken", **{field: value})
    for command in (
        ("plan",),
        ("inspect",),
        ("fuse", "-o", tmp_path / "student"),
        ("export", "-o", tmp_path / "files"),
    ):
        assert "config" in refused(capsys, command[0], broken, *command[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(("field", "value"), TEXTS, ids=str)
def test_a_broken_config_of_a_text_model(capsys, tmp_path, decoder, field, value):
    broken = changed(decoder, tmp_path / "broken", **{field: value})
    for command in ("plan", "inspect"):
        assert "config" in refused(capsys, command, broken)


def test_a_field_that_only_shows_when_the_model_runs(capsys, tmp_path, decoder):
    broken = changed(decoder, tmp_path / "broken", sliding_window="x")
    for command in (("fuse", "-o", tmp_path / "student"), ("export", "-o", tmp_path / "files")):
        assert str(broken) in refused(capsys, command[0], broken, *command[1:])


# Indices


def with_index(folder, target, index):
    shutil.copytree(folder, target)
    (target / "model.safetensors").rename(target / "model-00001-of-00001.safetensors")
    text = index if isinstance(index, str) else json.dumps(index)
    (target / "model.safetensors.index.json").write_text(text)
    return target


class Trap:
    """A pickle that leaves a file behind if it is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "model.bin"}}, "is not safetensors"),
        ({"weight_map": {"a": "model-00002-of-00002.safetensors"}}, "is missing"),
        ({"weight_map": {"a": "../outside.safetensors"}}, "is not a file of this folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "is not a file of this folder"),
        ({"weight_map": {"a": 3}}, "is not safetensors"),
        ({"weight_map": []}, "no weight_map"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
        ("{", "cannot read"),
        ("[" * 100_000, "cannot read"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_broken_index(capsys, tmp_path, vit_a, index, said):
    broken = with_index(vit_a, tmp_path / "broken", index)
    (broken / "model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    shutil.copy(vit_a / "model.safetensors", tmp_path / "outside.safetensors")
    line = refused(capsys, "fuse", broken, "-o", tmp_path / "student")
    assert said in line and "model.safetensors.index.json" in line
    assert not (tmp_path / "sprung").exists()


# Checkpoints


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, vit_a, image_folder):
    """Folder with a run that stopped after its first checkpoint, and its recipe."""
    from compressor.cli import run_command
    from compressor.distillation import training

    root = tmp_path_factory.mktemp("interrupted")
    values = tiny_recipe([vit_a], image_folder, root / "student")
    recipe = write_recipe(root / "recipe.yaml", values)
    save = training._StepCallback.on_save

    def stop(self, args, state, *rest, **options):
        save(self, args, state, *rest, **options)
        raise KeyboardInterrupt

    training._StepCallback.on_save = stop
    try:
        assert run_command(["run", str(recipe)]) == 130
    finally:
        training._StepCallback.on_save = save
    return root


def other_shapes(path):
    import torch

    state = torch.load(path, weights_only=True)
    for moments in state["state"].values():
        moments["exp_avg"] = torch.zeros(7)
    torch.save(state, path)


def pickled(path):
    path.write_bytes(pickle.dumps(Trap(path.with_name("sprung"))))


def foreign(path):
    import torch

    torch.save({"weights": torch.zeros(3)}, path)


def zipped_trap(path):
    import torch

    torch.save(Trap(path.with_name("sprung")), path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def garbage(path):
    path.write_bytes(os.urandom(500))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        *(("optimizer.pt", spoil) for spoil in (other_shapes, pickled, foreign, zipped_trap, cut, garbage)),
        *(("scheduler.pt", spoil) for spoil in (pickled, garbage)),
        *(("rng_state.pth", spoil) for spoil in (pickled, foreign, garbage)),
        *(("model.safetensors", spoil) for spoil in (cut, garbage)),
        ("trainer_state.json", garbage),
        ("trainer_state.json", lambda path: path.write_text("{}")),
        ("trainer_state.json", lambda path: path.write_text("[1]")),
    ],
)
def test_a_broken_checkpoint(capsys, tmp_path, interrupted, name, spoil):
    """The output's work folder is kept: what is broken may be put right by hand."""
    before = {path: path.read_bytes() for path in (interrupted / "student.work").rglob("*") if path.is_file()}
    file = next((interrupted / "student.work").rglob(f"checkpoint-*/{name}"))
    spoil(file)
    try:
        line = refused(capsys, "run", interrupted / "recipe.yaml", "--resume")
        assert "cannot go on from" in line and "checkpoint-2" in line and "--force" in line
        assert not list(interrupted.rglob("sprung"))
        assert not (interrupted / "student").exists()
        assert (interrupted / "student.work").exists()
    finally:
        shutil.rmtree(interrupted / "student.work", ignore_errors=True)
        for path, content in before.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(content)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_noted_and_the_result_is_the_same(
    capsys, tmp_path, monkeypatch, vit_a, image_folder
):
    from compressor.distillation import training

    steps = {"steps": 6, "batch_size": 4, "checkpoint_every": 2}
    recipe = write_recipe(tmp_path / "r.yaml", tiny_recipe([vit_a], image_folder, tmp_path / "s", finetune=steps))
    save = training._StepCallback.on_save

    def stop(self, args, state, *rest, **options):
        save(self, args, state, *rest, **options)
        if state.global_step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training._StepCallback, "on_save", stop)
        assert compress(capsys, "run", recipe)[0] == 130
    flip(tmp_path / "s.work" / "checkpoints" / "checkpoint-4" / "optimizer.pt")
    code, _, err = compress(capsys, "run", recipe, "--resume")
    assert code == 0, err
    assert "note: " in err and "checkpoint-4 is not whole (optimizer.pt is damaged): went on from" in err
    assert compress(capsys, "run", recipe, "--output", tmp_path / "straight")[0] == 0
    resumed, straight = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("s", "straight"))
    assert resumed["finetune"]["resumed_from"] == 2 and resumed["student"] == straight["student"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("state.json", lambda path: path.unlink(), "state.json is missing"),
        ("state.json", flip, "state.json"),
        ("state.json", cut, "state.json"),
        ("state.json", lambda path: path.write_text("{}"), "state.json"),
        ("one-shot/model.safetensors", flip, "one-shot/model.safetensors is damaged"),
        ("one-shot/config.json", lambda path: path.unlink(), "one-shot/config.json is missing"),
        ("transport.npz", flip, "transport.npz is damaged"),
        ("transport.npz", lambda path: path.unlink(), "transport.npz is missing"),
    ],
)
def test_damaged_work_is_refused_and_kept(capsys, tmp_path, interrupted, name, spoil, said):
    shutil.copytree(interrupted / "student.work", tmp_path / "kept")
    spoil(interrupted / "student.work" / name)
    damaged = {path: path.read_bytes() for path in (interrupted / "student.work").rglob("*") if path.is_file()}
    try:
        line = refused(capsys, "run", interrupted / "recipe.yaml", "--resume")
        assert said in line and "--force" in line
        left = {path: path.read_bytes() for path in (interrupted / "student.work").rglob("*") if path.is_file()}
        assert left == damaged
    finally:
        shutil.rmtree(interrupted / "student.work", ignore_errors=True)
        shutil.copytree(tmp_path / "kept", interrupted / "student.work")


@pytest.mark.parametrize("layers", [0, -1])
def test_layers_that_there_are_not_are_named(capsys, vit_a, tmp_path, layers):
    shutil.copytree(vit_a, tmp_path / "t")
    config = json.loads((tmp_path / "t" / "config.json").read_text()) | {"num_hidden_layers": layers}
    (tmp_path / "t" / "config.json").write_text(json.dumps(config))
    code, _, told = compress(capsys, "plan", tmp_path / "t")
    assert code == 2 and f"num_hidden_layers is {layers} and should be a positive whole number" in told


def test_a_config_that_names_no_class_is_inspected_as_its_base_model_and_not_fused(capsys, tmp_path, vit_a):
    nameless = changed(vit_a, tmp_path / "nameless", architectures=...)
    code, out, err = compress(capsys, "inspect", nameless)
    assert (code, err) == (0, "") and "ViTModel" in out
    for command in (("plan",), ("fuse", "-o", tmp_path / "student"), ("export", "-o", tmp_path / "files")):
        assert "add `architectures` to config.json" in refused(capsys, command[0], nameless, *command[1:])
