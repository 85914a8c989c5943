"""A command imports heavy libraries only where it uses them: help, completion and old reports come at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compressor.bench.rows import Row, to_json

#: Libraries that take a tenth of a second or more to import, or bring one that does.
HEAVY = {
    "accelerate", "datasets", "fvcore", "huggingface_hub", "matplotlib", "networkx", "numpy", "onnx", "onnxruntime",
    "onnxscript", "ot", "pandas", "pyarrow", "scipy", "scipy.stats", "sklearn", "sympy", "tensorboardX", "torch",
    "transformers", "transformers.trainer",
}  # fmt: skip
#: What `doctor` shows devices, providers or cache folders of, and what these libraries bring.
OF_DOCTOR = {"datasets", "huggingface_hub", "numpy", "onnxruntime", "pandas", "pyarrow", "torch"}
#: What data, transport, export, drawing and training take, and no architecture does.
NOT_OF_ARCHITECTURES = {
    "datasets", "matplotlib", "onnx", "onnxruntime", "onnxscript", "ot", "pandas", "pyarrow", "scipy.stats", "sklearn",
    "tensorboardX", "transformers.trainer",
}  # fmt: skip


@pytest.fixture
def imported(tmp_path):
    """Run a command line in a process of its own; which of `HEAVY` it has imported when it ends well."""

    def run(*arguments, **variables):
        listing = tmp_path / "modules"
        program = (
            f"import atexit, pathlib, sys; listing = pathlib.Path({str(listing)!r})\n"
            "atexit.register(lambda: listing.write_text('\\n'.join(sys.modules)))\n"
            "from compressor.cli import main; main()"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout
        return HEAVY.intersection(listing.read_text().splitlines())

    return run


@pytest.fixture
def finished(tmp_path):
    """A folder with the report of a run."""
    report = {
        "table": to_json([Row("student", 0.5, 0.1, 10, 20, 40)]),
        "target": {
            "asked_width": 0.5, "given_width": 0.5, "asked_depth": None,
            "fields": {"hidden_size": {"teacher": 8, "student": 4}},
        },
    }  # fmt: skip
    (tmp_path / "report.json").write_text(json.dumps(report))
    return str(tmp_path)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("fuse", "--help")])
def test_help_imports_nothing_heavy(imported, arguments):
    assert imported(*arguments) == set()


def test_a_shell_completes_without_heavy_libraries(imported):
    words = {"COMP_WORDS": "compress fuse a b --residual ", "COMP_CWORD": "5", "_COMPRESS_COMPLETE": "complete_bash"}
    assert imported(**words) == set()


@pytest.mark.parametrize("form", [(), ("--markdown",), ("--json",)])
def test_a_report_is_shown_without_heavy_libraries(imported, finished, form):
    assert imported("report", finished, *form) == set()


def test_doctor_imports_what_it_looks_at(imported):
    assert imported("doctor", "--json") <= OF_DOCTOR


def test_architectures_are_looked_at_without_data_and_transport(imported):
    assert not imported("plan", "vit-a", "vit-b") & NOT_OF_ARCHITECTURES
