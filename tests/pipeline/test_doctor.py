"""The command that looks at the machine, and what a shell completes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import compress


def test_it_prints_versions_devices_threads_and_caches(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    code, out, err = compress(capsys, "doctor")
    assert (code, err) == (0, "")
    for word in ("compressor", "torch", "cpu", "ONNX Runtime", "threads: ", "memory: ", "COMPRESSOR_CACHE"):
        assert word in out


def test_it_speaks_json_and_measures_caches(capsys, monkeypatch, tmp_path):
    import torch

    cache = tmp_path / "cache"
    (cache / "deep").mkdir(parents=True)
    (cache / "deep" / "file").write_bytes(bytes(1000))
    monkeypatch.setenv("COMPRESSOR_CACHE", str(cache))
    code, out, err = compress(capsys, "doctor", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["environment"]["torch"] == torch.__version__
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert found["devices"][0]["name"] == "cpu"
    first = found["caches"][0]
    assert (first["path"], first["bytes"], first["writable"]) == (str(cache), 1000, True)
    assert first["free"] > 0


def test_it_says_what_is_wrong(capsys, monkeypatch, tmp_path):
    from compressor.pipeline import machine

    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(
        machine,
        "requires",
        lambda _: ["torch>=99", "no-such-package>=1", "absent; extra == 'plots'", "x; extra == 'test'"],
    )
    monkeypatch.setattr(machine, "_LEAST_FREE", 1 << 60)
    _, out, _ = compress(capsys, "doctor", "--json")
    problems = json.loads(out)["problems"]
    assert [problem.split()[0] for problem in problems[:2]] == ["torch", "no-such-package"]
    assert "cannot be written" in problems[2] and "COMPRESSOR_CACHE" in problems[2]
    assert "GB are free" in problems[3] and "HF_HUB_CACHE" in problems[3]
    assert json.loads(out)["requirements"] == {"torch": problems[0].split()[1], "no-such-package": None, "absent": None}
    code, out, _ = compress(capsys, "doctor")
    assert code == 0 and "problem: torch" in out and "no problems" not in out


def completed(line, **variables):
    """What the shell is told to put at the end of a line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_COMPRESS_COMPLETE": "complete_bash"}
    check = "import sys; from compressor.cli import main; main(); sys.exit('went on')"
    environment = {**os.environ, **words, **variables, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", check], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    "line, expected",
    [
        ("compress f", ["fuse", "finetune"]),
        ("compress fuse --resid", ["--residual"]),
        ("compress fuse a b --query-key ", ["joint", "separate", "equal"]),
        ("compress fuse a b --preset v", ["vanilla"]),
    ],
)
def test_a_shell_completes(line, expected):
    assert completed(line) == expected


def test_completion_is_installed_by_a_flag(tmp_path):
    check = (
        "import shellingham, sys; shellingham.detect_shell = lambda *_: ('bash', 'bash')\n"
        "from compressor.cli import run_command; sys.exit(run_command(['--install-completion']))"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", check], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "_COMPRESS_COMPLETE=complete_bash" in (tmp_path / ".bash_completions" / "compress.sh").read_text()
    assert "compress.sh" in (tmp_path / ".bashrc").read_text()
