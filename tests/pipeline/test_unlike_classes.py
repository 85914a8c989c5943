"""Teachers of other classes, from the command line to the report."""

from __future__ import annotations

import json

import pytest
import torch
from command import compress
from tiny import save_images, save_vit

import compressor

NAMES = ("cat", "dog", "ant", "bee")
QUICK = ("--no-onnx", "--no-latency", "--steps", "2", "--batch-size", "4", "--samples", "40")


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Teachers of two classes each, and one of all four in another order; images of all."""
    root = tmp_path_factory.mktemp("halves")
    save_vit(root / "a", seed=0, classes=NAMES[:2])
    save_vit(root / "b", seed=1, classes=NAMES[2:])
    save_vit(root / "all", seed=2, classes=NAMES[::-1])
    save_images(root / "data" / "train", per_class=12, seed=0)
    save_images(root / "data" / "test", per_class=3, seed=1)
    return root


@pytest.fixture(scope="module")
def union(halves, tmp_path_factory):
    """A student of both halves, by the Python face."""
    result = compressor.fuse([str(halves / "a"), str(halves / "b")], 0.5, str(halves / "data"), samples=40,
                             classes="union")  # fmt: skip
    return result, result.save(tmp_path_factory.mktemp("union") / "student")


def names_of(folder):
    return list(json.loads((folder / "config.json").read_text())["id2label"].values())


def test_unlike_classes_are_refused_with_the_way_out(capsys, halves, tmp_path):
    models = ("fuse", halves / "a", halves / "b", "--data", halves / "data", "-o", tmp_path / "s")
    code, _, err = compress(capsys, *models)
    assert code == 2 and "a has cat, dog, which" in err and "--classes union" in err
    assert len(err.strip().splitlines()) == 1 and not (tmp_path / "s").exists()


def test_the_command_fuses_a_union(capsys, halves, tmp_path):
    folder, data = tmp_path / "s", ("--data", halves / "data", *QUICK)
    code, _, err = compress(capsys, "fuse", halves / "a", halves / "b", "--classes", "union", *data, "-o", folder)
    assert code == 0, err
    assert names_of(folder) == list(NAMES)
    report = json.loads((folder / "report.json").read_text())
    assert report["recipe"]["fusion"]["classes"] == "union" and report["evaluation"]["labelled"] == 12
    assert any("lacks ant, bee" in note for note in report["notes"])
    assert any("fitted to 40 labels" in note for note in report["notes"])
    from transformers import AutoModelForImageClassification

    assert AutoModelForImageClassification.from_pretrained(folder).classifier.out_features == 4


def test_the_next_command_repeats_the_choice(capsys, halves, tmp_path):
    arguments = (halves / "a", halves / "b", "--classes", "union", "--data", halves / "data", "--samples", "40",
                 "--no-onnx", "--no-latency", "--no-finetune")  # fmt: skip
    code, out, err = compress(capsys, "fuse", *arguments, "-o", tmp_path / "s")
    assert code == 0, err
    assert "--classes union -o" in out


def test_python_fuses_a_union(union):
    result, folder = union
    assert list(result.model.config.id2label.values()) == list(NAMES) == names_of(folder)
    report = json.loads((folder / "report.json").read_text())
    assert any("fitted to 40 labels" in note for note in report["notes"])


@pytest.mark.parametrize(("choice", "expected"), [("first", NAMES[:2]), ("intersection", ("dog", "cat"))])
def test_other_choices(halves, choice, expected):
    """Without data: from weights alone, a class keeps what the teachers say of it."""
    teachers = ["a", "all"] if choice == "first" else ["all", "a"]
    result = compressor.fuse([str(halves / name) for name in teachers], 0.5, None, classes=choice)
    assert tuple(result.model.config.id2label.values()) == expected


def test_the_same_classes_in_another_order_give_the_same_student(halves, tmp_path, vit_b):
    """A teacher whose head is permuted is the same teacher."""
    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(halves / "all")
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight.flip(0))
        model.classifier.bias.copy_(model.classifier.bias.flip(0))
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: index for index, name in enumerate(NAMES)}
    model.eval()
    data = [{"pixel_values": torch.randn(16, 3, 16, 16)} for _ in range(2)]
    flipped, direct = (compressor.fuse([str(vit_b), other], 0.5, data).model for other in (str(halves / "all"), model))
    assert flipped.config.id2label == direct.config.id2label
    for name, value in flipped.state_dict().items():
        assert torch.equal(value, direct.state_dict()[name]), name


def test_evaluate_and_finetune_match_by_name(capsys, halves, union, tmp_path):
    folder, data = union[1], ("--data", halves / "data")
    models = (folder, halves / "a", halves / "b", halves / "all")
    code, out, err = compress(capsys, "evaluate", *models, *data, "--classes", "union", "--json")
    assert code == 0, err
    student, a, b, _ = json.loads(out)["rows"]
    # A teacher never answers a class that it lacks: at most half of the images are of its classes.
    assert a["accuracy"] <= 0.5 and b["accuracy"] <= 0.5 and student["labelled"] == 12
    arguments = (folder, "-t", halves / "b", "-t", halves / "a", *data, *QUICK[:-2], "-o", tmp_path / "tuned")
    code, _, err = compress(capsys, "finetune", *arguments)
    assert code == 2 and "--classes" in err
    code, _, err = compress(capsys, "finetune", *arguments, "--classes", "union")
    assert code == 0, err
    assert names_of(tmp_path / "tuned") == list(NAMES)


def test_python_finetunes_with_unlike_teachers(halves, union):
    data = str(halves / "data")
    teachers = [str(halves / "b"), str(halves / "a")]
    tuned = compressor.finetune(str(union[1]), teachers, data, steps=2, batch_size=4, classes="union")
    assert list(tuned.model.config.id2label.values()) == list(NAMES)
    assert any("unlabelled samples" in line for line in tuned.origin.remarks)
    rows = compressor.evaluate([str(union[1]), *teachers], data, classes="union").rows
    assert len(rows) == 3


def test_an_anchor_is_refused(capsys, halves, tmp_path):
    arguments = (halves / "a", halves / "b", "--anchor", halves / "a", "--classes", "union", "-o", tmp_path / "s")
    code, _, err = compress(capsys, "fuse", *arguments)
    assert code == 2 and "anchor" in err


def test_plan_knows_the_union(capsys, halves):
    _, both, _ = compress(capsys, "plan", halves / "a", halves / "b", "--classes", "union", "--json")
    _, one, _ = compress(capsys, "plan", halves / "a", "--json")
    hidden = 16
    difference = json.loads(both)["student"]["parameters"] - json.loads(one)["student"]["parameters"]
    assert difference == 2 * (hidden + 1)
