"""Runs the command in this process, and tiny recipes for it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

#: A line of progress in a log: what it looks like is for `test_progress`.
STAGE = re.compile(r"^\d\d:\d\d:\d\d .*\n", re.MULTILINE)


def compress(capsys, *arguments):
    """Run `compress` with arguments; the exit code, stdout and stderr without the lines of progress."""
    from compressor.cli import run_command

    capsys.readouterr()
    code = run_command([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, STAGE.sub("", captured.err)


def tiny_recipe(teachers, data, output, **sections):
    """Nested values of a run that takes a second or two: few samples, few steps, nothing timed or exported."""
    values = {
        "teachers": [str(teacher) for teacher in teachers],
        "output": str(output),
        "data": {"source": None if data is None else str(data)},
        "calibration": {"samples": 16, "batch_size": 4},
        "finetune": {"steps": 4, "batch_size": 4, "checkpoint_every": 2},
        "bench": {"latency": False, "seconds": 0.01, "batch_size": 2},
        "export": {"onnx": False},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return values


def write_recipe(path, values):
    """Write values as a recipe file; its path."""
    Path(path).write_text(yaml.safe_dump(values))
    return Path(path)
