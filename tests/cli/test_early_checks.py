"""A slip in a name is answered before anything heavy is imported."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import compress

from compressor.cli.early_checks import check_job_early
from compressor.errors import UserError
from compressor.recipe import build_recipe

COMMANDS = ("bench", "evaluate", "export", "inspect", "plan")
HEAVY = ("torch", "transformers", "datasets", "numpy", "onnxruntime")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fuse", "vit-a", "vit-b", "-o", "there"), "there exists already: choose another output"),
        (("fuse", "./none", "vit-b"), "no model './none': no such folder"),
        (("fuse", "vit-a", "there"), "no config.json in there: a model is a folder with config.json and weights"),
        (("finetune", "vit-a", "-t", "a/b/c"), "no model 'a/b/c': no such folder"),
        (("evaluate", "~/no-such-model"), "no such folder"),
        (("fuse", "vit-a", "--data", "./none"), "no data at ./none: there is no such file or folder"),
        (("fuse", "vit-a", "--width", "2"), "--width"),
        (("fuse", "vit-a", "--no-such-flag"), "No such option"),
        (("plan", "./none"), "no model './none'"),
        (("bench", "./none"), "no model './none'"),
        (("export", "./none"), "no model './none'"),
        (("inspect", "./none"), "no model './none'"),
        (("report", "none"), "no report.json in none"),
    ],
)
def test_nothing_heavy_is_imported_for_a_slip(capsys, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    from compressor.cli import console, student_job

    def imported(*_):
        raise AssertionError("heavy imports come after these checks")

    # All commands import heavy libraries inside `loading`.
    commands = (importlib.import_module(f"compressor.cli.commands.{name}") for name in COMMANDS)
    for module in (console, student_job, *commands):
        monkeypatch.setattr(module, "loading", imported)
    code, out, err = compress(capsys, *arguments)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1


def test_it_is_so_in_a_process_of_its_own(tmp_path):
    (tmp_path / "there").mkdir()
    program = (
        "import sys; from compressor.cli import run_command\n"
        "code = run_command(['fuse', 'vit-a', 'vit-b', '-o', 'there'])\n"
        f"sys.exit(f'imported {{loaded}}' if (loaded := set({HEAVY}) & set(sys.modules)) else code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and "exists already" in done.stderr and done.stderr.count("\n") == 1


def test_what_later_checks_say_better_is_left_to_them(tmp_path, monkeypatch):
    """An output that is an input, or is to be replaced, a name that may be of the Hub, a list of files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    for folder in ("a", "a/b"):
        (tmp_path / folder / "config.json").touch()
    for values, force in (
        ({"teachers": ["a"], "output": "a"}, False),
        ({"teachers": ["a/b"], "output": "a"}, False),
        ({"teachers": ["a"], "output": "a/b"}, False),
        ({"teachers": ["vit-a"], "output": "a"}, True),
        ({"teachers": ["vit-a"], "data": {"source": "a/*.csv"}, "output": "a"}, False),
        ({"teachers": ["vit-a"], "data": {"source": "x.csv,a/b/y.csv"}, "output": "a"}, False),
        ({"teachers": ["someone/model"], "output": "new"}, False),
        ({"teachers": ["a"], "data": {"source": "./x/*.csv,./y.csv"}, "output": "new"}, False),
    ):
        check_job_early(build_recipe(values), force)
    with pytest.raises(UserError, match="exists already"):
        check_job_early(build_recipe({"teachers": ["vit-a"], "output": "a"}), False)
