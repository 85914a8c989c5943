"""Trains two teachers for each task and seed, fuses them with the command, and writes a table of the scores.

python -m benchmarks.tasks -o benchmarks/results/tasks --work work
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import AutoConfig

import compressor
from benchmarks.tasks.page import STEPS, page
from benchmarks.tasks.settings import SETTINGS, TaskSetting
from benchmarks.tasks.teachers import train_teacher
from benchmarks.tasks.vision import VISION_SETTINGS
from compressor.cli import run_command
from compressor.pipeline.environment import environment
from compressor.utils.files import atomic_directory, atomic_write_text

ALL_SETTINGS: dict[str, TaskSetting] = {**SETTINGS, **VISION_SETTINGS}
SEEDS = (0, 1)


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the figures and the page.")],
    work: Annotated[Path, typer.Option(help="Folder of data, teachers and students; what is there is kept.")],
    only: Annotated[list[str] | None, typer.Option(help=f"Tasks, of {', '.join(ALL_SETTINGS)}.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds; default 0 and 1.")] = None,
    again: Annotated[bool, typer.Option(help="Fuse again where there are figures; teachers are kept.")] = False,
    same_shape: Annotated[
        bool, typer.Option(help="Also train a model of the student's shape as the teachers were, with labels.")
    ] = False,
) -> None:
    """Measure every task with every seed, and write `{task}-{seed}.json` and `README.md`."""
    output.mkdir(parents=True, exist_ok=True)
    for name in only or ALL_SETTINGS:
        for number in seed or SEEDS:
            file = output / f"{name}-{number}.json"
            figures = {} if again or not file.exists() else json.loads(file.read_text(encoding="utf-8"))
            if not figures:
                figures = measure(name, ALL_SETTINGS[name], work, number)
            if same_shape and "same_shape" not in figures:
                figures["same_shape"] = measure_same_shape(ALL_SETTINGS[name], work / name, number)
            atomic_write_text(file, json.dumps(figures, indent=1) + "\n")
            atomic_write_text(output / "README.md", page(output, list(ALL_SETTINGS)))


def measure(name: str, setting: TaskSetting, work: Path, seed: int) -> dict[str, Any]:
    """Make data and teachers where missing, fuse, and return the report's table and parity."""
    data = work / name / "data"
    if not data.exists():
        with atomic_directory(data) as partial:
            partial.rmdir()
            setting.save(partial, setting.samples)
    teachers = [work / name / f"{name}-{number}" for number in (2 * seed, 2 * seed + 1)]
    for number, folder in zip((2 * seed, 2 * seed + 1), teachers, strict=True):
        if not folder.exists():
            with atomic_directory(folder) as partial:
                train_teacher(setting, data, partial, number)
    student, started = work / name / f"student-{seed}", time.perf_counter()
    code = run_command(
        ["fuse", *map(str, teachers), "--data", str(data), "--width", "0.5", "--steps", str(STEPS), "--no-latency",
         "--seed", str(seed), "-o", str(student), "--force"]
    )  # fmt: skip
    if code:
        raise typer.Exit(code)
    report = json.loads((student / "report.json").read_text(encoding="utf-8"))
    seconds = round(time.perf_counter() - started, 1)
    return {
        "task": name,
        "seed": seed,
        "table": report["table"],
        "parity": report["onnx"]["largest_relative_difference"],
        "seconds": seconds,
        "environment": environment(),
    }


def measure_same_shape(setting: TaskSetting, work: Path, seed: int) -> dict[str, Any]:
    """Train a model of the student's shape as the teachers were, where missing, and return its scores."""
    folder, data = work / f"same-shape-{seed}", work / "data"
    if not folder.exists():
        config = AutoConfig.from_pretrained(work / f"student-{seed}")
        with atomic_directory(folder) as partial:
            train_teacher(replace(setting, config=lambda: config), data, partial, 2 * seed)
    row: dict[str, Any] = compressor.evaluate(folder, data, samples=None).to_dict()["rows"][0]
    return row


if __name__ == "__main__":
    typer.run(main)
