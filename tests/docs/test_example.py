"""docs/examples/fuse_two_vits.py is short, runs, and makes step by step the student that `compressor.fuse` makes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny import save_vit

PATH = Path(__file__).parents[2] / "docs" / "examples" / "fuse_two_vits.py"
#: What the example leaves to its reader, as options of `compressor.fuse`.
GIVEN = {"residual": "barycentre", "inner": "transport", "narrowing": "fewer-heads"}


@pytest.fixture(scope="module")
def example():
    specification = importlib.util.spec_from_file_location("fuse_two_vits", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    from transformers import ViTForImageClassification

    root = tmp_path_factory.mktemp("example")
    folders = [save_vit(root / str(seed), seed=seed, initializer_range=0.3) for seed in range(2)]
    return [ViTForImageClassification.from_pretrained(folder).eval() for folder in folders]


def test_it_can_be_read_in_one_sitting():
    assert len(PATH.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("refit", [False, True])
def test_it_makes_the_student_that_fuse_makes(example, teachers, refit, capsys):
    import compressor

    images = torch.randn(96, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    student = example.fuse(example.understand(teachers), images, refit=refit)
    printed = capsys.readouterr().out
    assert all(step in printed for step in ("anatomy", "certificate", "canonical form", "shape", "coupling"))
    batches = [{"pixel_values": part} for part in images.split(64)]
    options = {**GIVEN, "refit": refit, "weights": [0.5, 0.5], "polish": 0}
    expected = compressor.fuse(teachers, 0.5, batches, **options).model.state_dict()
    assert {name: value.shape for name, value in student.state_dict().items()} == {
        name: value.shape for name, value in expected.items()
    }
    for name, value in student.state_dict().items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-4), name


def test_it_prints_what_came_out(example, teachers, capsys, monkeypatch):
    from types import SimpleNamespace

    images = torch.randn(96, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    named = dict(zip(("vit-a", "vit-b"), teachers, strict=True))
    monkeypatch.setattr(example, "load_teacher", lambda name: SimpleNamespace(model=named[name]))
    monkeypatch.setattr(example, "pixels", lambda role: (images, torch.zeros(96, dtype=torch.int64)))
    example.main()
    lines = capsys.readouterr().out.splitlines()[-6:]
    distance = {line.split("  ")[0]: float(line.split()[-1]) for line in lines}
    assert distance["ensemble"] == 0
    assert distance["transport, refit"] < distance["transport alone"]
