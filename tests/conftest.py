"""Fixtures that all tests share: tiny models and data, made on the fly and offline."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from few_samples import few_samples_are_enough
from slow_cases import case_of, read_slow
from tiny import save_bert, save_images, save_vit

_scratch = tempfile.TemporaryDirectory(prefix="compressor-tests-")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the costly cases of tests/slow.txt, before cases are selected by marks."""
    slow = read_slow()
    for item in items:
        if case_of(item.nodeid) in slow:
            item.add_marker(pytest.mark.slow)


def pytest_configure(config):
    # Read by the libraries when they are imported, which is after this.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_CACHE"] = str(Path(_scratch.name, "datasets"))
    os.environ["COMPRESSOR_CACHE"] = str(Path(_scratch.name, "cache"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Tests that import ONNX Runtime before this package are to send nothing either.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def pytest_unconfigure(config):
    _scratch.cleanup()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _few_samples_are_enough():
    few_samples_are_enough()


@pytest.fixture(scope="session")
def vit_a(tmp_path_factory):
    """Folder of a tiny ViT, 32 wide, 4 heads, 2 layers, 4 classes."""
    return save_vit(tmp_path_factory.mktemp("teachers") / "a", seed=0)


@pytest.fixture(scope="session")
def vit_b(tmp_path_factory):
    """A sibling of `vit_a` with another seed."""
    return save_vit(tmp_path_factory.mktemp("teachers") / "b", seed=1)


@pytest.fixture(scope="session")
def vit_wide(tmp_path_factory):
    """A sibling of `vit_a` that is 48 wide with 6 heads."""
    return save_vit(tmp_path_factory.mktemp("teachers") / "wide", seed=2, hidden=48, heads=6)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """Folder of a tiny BERT classifier with its tokenizer."""
    return save_bert(tmp_path_factory.mktemp("teachers") / "bert")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Images by class in train (6 a class) and test (3 a class)."""
    root = tmp_path_factory.mktemp("images")
    save_images(root / "train", per_class=6, seed=0)
    save_images(root / "test", per_class=3, seed=1)
    return root


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, vit_a, vit_b, image_folder):
    """The folder and the report of a whole run of two teachers, everything on; to be read only."""
    from command import tiny_recipe

    from compressor.pipeline.run.run import run_recipe
    from compressor.recipe import build_recipe

    output = tmp_path_factory.mktemp("finished") / "student"
    values = tiny_recipe([vit_a, vit_b], image_folder, output, bench={"latency": True}, export={"onnx": True})
    return output, run_recipe(build_recipe(values))


@pytest.fixture(scope="session")
def fused_run(tmp_path_factory, vit_a, image_folder):
    """The folder of a run that only fused one teacher; to be read only."""
    from command import tiny_recipe

    from compressor.pipeline.run.run import run_recipe
    from compressor.recipe import build_recipe

    output = tmp_path_factory.mktemp("fused") / "s"
    run_recipe(build_recipe(tiny_recipe([vit_a], image_folder, output, finetune={"enabled": False})))
    return output


@pytest.fixture
def forked_benchmark():
    """`compress bench` forks its processes: `test_bench` of the command starts them as users do."""
    from forked import forked_workers

    with forked_workers():
        yield


@pytest.fixture
def quick_builtin(monkeypatch, tmp_path):
    """Small built-in teachers that train for three steps, in a cache of their own."""
    from tiny import quick_builtins

    from compressor.models import builtin

    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "builtin-cache"))
    quick = quick_builtins()
    monkeypatch.setattr(builtin, "BUILTIN", quick)
    return quick
