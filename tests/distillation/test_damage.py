"""Checkpoints that are damaged: a training goes on from the newest whole one, and removes nothing before."""

import json
import os
import shutil
import warnings

import pytest
import torch
from distilling import Interrupt, options, same, samples, state, vit
from safetensors.torch import load_file, save_file

from compressor.distillation.damage import FINISHED
from compressor.distillation.distill import train_student
from compressor.errors import CheckpointWarning, UserError

PARTS = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth")


def train(folder, resume=False, progress=None, **fields):
    """Weights and report of eight steps with checkpoints at 3, 6 and 8."""
    student = vit(2)
    report = train_student(
        student, [vit(0)], [1], samples(), options(**fields), seed=5, work_dir=folder, resume=resume, progress=progress
    )
    return state(student), report


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Weights of an undisturbed run."""
    return train(tmp_path_factory.mktemp("whole"))[0]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder with checkpoints at steps 3 and 6."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        train(folder, progress=Interrupt(7))
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6"}
    return folder


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    os.truncate(path, 0)


def removed(path):
    path.unlink()


def flipped(path):
    """One byte near the end, amid the values of tensors."""
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 5] ^= 0x40
    path.write_bytes(content)


def is_folder(path):
    path.unlink()
    path.mkdir()


def spoil_weights(path):
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path)


def spoil_moments(path):
    saved = torch.load(path, weights_only=True)
    saved["state"][0]["exp_avg"].view(-1)[0] = float("nan")
    torch.save(saved, path)


SPOILT = [
    *((name, spoil) for name in PARTS for spoil in (cut, emptied, removed, flipped, is_folder)),
    ("model.safetensors", spoil_weights),
    ("optimizer.pt", spoil_moments),
    (FINISHED, flipped),
    (".", lambda folder: [path.unlink() for path in folder.iterdir() if path.name != FINISHED]),
    ("../checkpoint-7/finished", lambda path: (path.parent.mkdir(), path.touch())),
]
IDS = [f"{name} {spoil.__name__.strip('<>')}" for name, spoil in SPOILT]
#: Of them, in `make test`.
FAST = {0, 8, 28}


def few(first, *more):
    """The first way of damage in `make test`, all in `make test-all`."""
    return [first, *(pytest.param(spoil, marks=pytest.mark.slow) for spoil in more)]


def spoil_params():
    return [
        pytest.param(*value, id=name, marks=() if index in FAST else pytest.mark.slow)
        for index, (value, name) in enumerate(zip(SPOILT, IDS, strict=True))
    ]


@pytest.mark.parametrize(("name", "spoil"), spoil_params())
def test_an_older_checkpoint_takes_the_place_of_a_damaged_one(interrupted, whole, tmp_path, name, spoil):
    folder = shutil.copytree(interrupted, tmp_path / "work")
    spoil(folder / "checkpoint-6" / name)
    with pytest.warns(CheckpointWarning, match=r"checkpoint-[67] is not whole \(.*\): went on from .*checkpoint-[36]"):
        weights, report = train(folder, resume=True)
    assert report.resumed_from == (6 if "checkpoint-7" in name else 3)
    assert same(weights, whole)


@pytest.mark.parametrize("spoil", few(flipped, cut, removed))
def test_none_whole_is_one_line_and_nothing_is_removed(interrupted, tmp_path, spoil):
    folder = shutil.copytree(interrupted, tmp_path / "work")
    for step in (3, 6):
        spoil(folder / f"checkpoint-{step}" / "optimizer.pt")
    before = sorted(folder.rglob("*"))
    with pytest.raises(
        UserError, match=r"checkpoint-6: optimizer.pt is .*, nor is any of 1 older; start anew"
    ) as refusal:
        train(folder, resume=True)
    assert "\n" not in str(refusal.value)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("spoil", few(spoil_weights, cut, removed))
def test_checkpoints_of_former_versions_are_opened(interrupted, whole, tmp_path, spoil):
    """They have no checksums: what can be read is whole."""
    folder = shutil.copytree(interrupted, tmp_path / "work")
    for step in (3, 6):
        emptied(folder / f"checkpoint-{step}" / FINISHED)
    spoil(folder / "checkpoint-6" / "model.safetensors")
    with pytest.warns(CheckpointWarning):
        weights, report = train(folder, resume=True)
    assert report.resumed_from == 3 and same(weights, whole)


@pytest.mark.slow
def test_whole_checkpoints_earn_no_warning(interrupted, whole, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "work")
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        weights, report = train(folder, resume=True)
    assert report.resumed_from == 6 and same(weights, whole)


@pytest.mark.parametrize("spoil", few(flipped, cut, removed, spoil_weights))
def test_damaged_best_weights_are_found_before_the_training_goes_on(tmp_path, spoil):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=Interrupt(7), validate_every=2, validation=0.25)
    spoil(tmp_path / "best" / "model.safetensors")
    steps = []
    with pytest.raises(UserError, match=r"best/model.safetensors is "):
        train(tmp_path, True, lambda *values: steps.append(values), validate_every=2, validation=0.25)
    assert steps == []


@pytest.mark.slow
def test_a_kill_between_best_weights_and_their_checksum_is_no_damage(tmp_path):
    from compressor.distillation.damage import replace_best

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=Interrupt(7), validate_every=2, validation=0.25)
    weights = tmp_path / "best" / "model.safetensors"
    content = weights.read_bytes()
    partial = weights.with_name("partial")
    shutil.copy(tmp_path / "checkpoint-3" / "model.safetensors", partial)
    replace_best(partial, weights)
    weights.write_bytes(content)
    assert train(tmp_path, resume=True, validate_every=2, validation=0.25)[1].resumed_from == 6


@pytest.mark.slow
def test_trials_of_a_search_that_changed_are_refused(tmp_path):
    search = {"learning_rate": "search", "learning_rates": (1e-3, 1e-2), "validation": 0.25, "search_steps": 2}
    train(tmp_path, **search)
    trials = tmp_path / "search" / "trials.json"
    values = json.loads(trials.read_text())
    values["trials"][0]["validation_loss"] += 1
    trials.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"trials.json.*start anew"):
        train(tmp_path, resume=True, **search)
