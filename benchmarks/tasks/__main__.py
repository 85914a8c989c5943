"""Trains two teachers for each task, fuses them with the command, and writes a table of the scores.

python -m benchmarks.tasks -o benchmarks/results/tasks --work work
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.tasks.settings import SETTINGS, TaskSetting
from benchmarks.tasks.teachers import train_teacher
from benchmarks.tasks.vision import VISION_SETTINGS
from compressor.bench.metrics import METRICS, Metric, main_metric
from compressor.cli import run_command
from compressor.pipeline.environment import environment
from compressor.utils.files import atomic_directory, atomic_write_text

ALL_SETTINGS: dict[str, TaskSetting] = {**SETTINGS, **VISION_SETTINGS}
STEPS, SEEDS = 100, (0, 1)
_TITLES = ("task", "metric", "teachers", "ensemble", "one-shot", f"after {STEPS} steps", "of the better teacher",
           "ONNX against torch", "seconds")  # fmt: skip


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the figures and the page.")],
    work: Annotated[Path, typer.Option(help="Folder of data, teachers and students; what is there is kept.")],
    only: Annotated[list[str] | None, typer.Option(help=f"Tasks, of {', '.join(ALL_SETTINGS)}.")] = None,
) -> None:
    """Measure every task, and write `tasks.json` and `tasks.md`."""
    file = output / "tasks.json"
    output.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in only or ALL_SETTINGS:
        figures[name] = measure(name, ALL_SETTINGS[name], work)
        atomic_write_text(file, json.dumps(figures, indent=1) + "\n")
        atomic_write_text(output / "tasks.md", page(figures))


def measure(name: str, setting: TaskSetting, work: Path) -> dict[str, Any]:
    """Make data and teachers where missing, fuse, and return the report's table and parity."""
    data = work / name / "data"
    if not data.exists():
        with atomic_directory(data) as partial:
            partial.rmdir()
            setting.save(partial, setting.samples)
    teachers = [work / name / f"{name}-{seed}" for seed in SEEDS]
    for seed, folder in zip(SEEDS, teachers, strict=True):
        if not folder.exists():
            with atomic_directory(folder) as partial:
                train_teacher(setting, data, partial, seed)
    student, started = work / name / "student", time.perf_counter()
    code = run_command(
        ["fuse", *map(str, teachers), "--data", str(data), "--width", "0.5", "--steps", str(STEPS), "--no-latency",
         "-o", str(student), "--force"]
    )  # fmt: skip
    if code:
        raise typer.Exit(code)
    report = json.loads((student / "report.json").read_text(encoding="utf-8"))
    return {
        "table": report["table"],
        "parity": report["onnx"]["largest_relative_difference"],
        "seconds": round(time.perf_counter() - started, 1),
        "environment": environment(),
    }


def page(figures: dict[str, Any]) -> str:
    """A row per task."""
    lines = [_TITLES, (":--", ":--", *["--:"] * (len(_TITLES) - 2))]
    lines += [(name, *_cells(found)) for name, found in figures.items()]
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return (
        f"# Tasks\n\nTwo teachers of seeds {SEEDS[0]} and {SEEDS[1]}, fused to half width with 1,024 training samples "
        f"without labels and distilled for {STEPS} steps. `python -m benchmarks.tasks`\n\n{rows}\n"
    )


def _cells(found: dict[str, Any]) -> list[str]:
    *teachers, ensemble, one_shot, finetuned = found["table"]
    metric = main_metric(*found["table"])
    assert metric is not None
    best = metric.best(row[metric.name] for row in teachers)
    # Of rates of errors, what is right.
    right = (lambda value: 1 - value) if metric.percent and metric.lower else (lambda value: value)
    shares = [f"{right(row[metric.name]) / right(best):.1%}" for row in (one_shot, finetuned)]
    return [
        metric.title, ", ".join(_score(metric, row) for row in teachers), _score(metric, ensemble),
        _score(metric, one_shot), _score(metric, finetuned), " → ".join(shares), f"{found['parity']:.0e}",
        f"{found['seconds']:.0f}",
    ]  # fmt: skip


def _score(metric: Metric, row: dict[str, Any]) -> str:
    return METRICS[metric.name].format(row[metric.name], row.get(f"{metric.name}_error"))


if __name__ == "__main__":
    typer.run(main)
