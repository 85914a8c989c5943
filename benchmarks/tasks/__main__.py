"""Trains two teachers for each task and seed, fuses them with the command, and writes a table of the scores.

python -m benchmarks.tasks -o benchmarks/results/tasks --work work
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

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
) -> None:
    """Measure every task with every seed, and write `{task}-{seed}.json` and `README.md`."""
    output.mkdir(parents=True, exist_ok=True)
    for name in only or ALL_SETTINGS:
        for number in seed or SEEDS:
            file = output / f"{name}-{number}.json"
            if again or not file.exists():
                figures = measure(name, ALL_SETTINGS[name], work, number)
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


if __name__ == "__main__":
    typer.run(main)
