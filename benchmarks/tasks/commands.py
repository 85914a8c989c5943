"""Every command on every task, with the data and teachers of `python -m benchmarks.tasks`, and how each ended.

python -m benchmarks.tasks.commands -o benchmarks/results/tasks/commands.md --work work
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.tasks.__main__ import ALL_SETTINGS
from compressor.cli.command_line import INTERRUPTED, run_command
from compressor.utils.files import atomic_write_text

#: Columns of the table: commands, then the programs of the student's model card.
STEPS = ("fuse", "finetune", "evaluate", "export", "bench", "card", "card's example")
#: What a cell says where all went well, and where a card has no example.
OK, NONE = "ok", "–"
#: Arguments of the card's example, by task, where it takes no picture and not one text.
_ARGUMENTS = {
    "question-answering": ("what was done ?", "the cook sold the fish at noon"),
    "multiple-choice": ("the cook sold the fish at noon who was it ?", "the cook", "at noon"),
}
_QUICK = ("--steps", "4", "--batch-size", "8", "--eval-samples", "32")


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="File of the table, Markdown.")],
    work: Annotated[Path, typer.Option(help="Folder that `python -m benchmarks.tasks` left.")],
    only: Annotated[list[str] | None, typer.Option(help=f"Tasks, of {', '.join(ALL_SETTINGS)}.")] = None,
) -> None:
    """Try all commands on the first two teachers of every task that has some."""
    tried = {}
    for name in only or ALL_SETTINGS:
        teachers = [work / name / f"{name}-{number}" for number in (0, 1)]
        if not all(folder.exists() for folder in teachers):
            continue
        shutil.rmtree(work / name / "commands", ignore_errors=True)
        tried[name] = try_commands(name, teachers, work / name / "data", work / name / "commands")
        atomic_write_text(output, command_table(tried))


def try_commands(name: str, teachers: list[Path], data: Path, folder: Path) -> dict[str, str]:
    """How each of `STEPS` ended for a task: `OK`, or the line of its error."""
    folder.mkdir(parents=True)
    student, first, second = str(folder / "student"), *map(str, teachers)
    common = ("--data", str(data), "--no-latency", "--formats", "onnx", *_QUICK)
    results = {
        "fuse": _run("fuse", first, second, "--width", "0.5", "--effort", "fast", "--samples", "64", *common,
                     "-o", student),
        "finetune": _run("finetune", student, "-t", first, "-t", second, *common, "-o", str(folder / "finetuned")),
        "evaluate": _run("evaluate", student, first, "--ensemble", "--data", str(data), "--eval-samples", "32"),
        "export": _run("export", student, "--data", str(data), "--formats", "onnx,onnx-int8,onnx-fp16",
                       "-o", str(folder / "exported"), "--samples", "16", "--eval-samples", "32"),
        "bench": _run("bench", student, first, "--batch-size", "1", "--length", "16", "--seconds", "0.01"),
    }  # fmt: skip
    if results["fuse"] == OK:
        blocks = card_programs(Path(student, "README.md"))
        results["card"] = _program(blocks[0].replace("path/to/this/folder", student), folder)
        picture = next(iter(sorted(data.rglob("*.png"))), None) or _picture(folder / "picture.png")
        arguments = [str(picture)] if "PIL" in "".join(blocks[1:]) else _ARGUMENTS.get(name, ("the soup was good",))
        results["card's example"] = _program(blocks[1], Path(student), *arguments) if len(blocks) > 1 else NONE
    return results


def card_programs(card: Path) -> list[str]:
    """The blocks of Python in a model card."""
    return re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)


def command_table(results: Mapping[str, Mapping[str, str]]) -> str:
    """A row for each task, a column for each of `STEPS`; errors in full below."""
    rows = [("task", *STEPS), (":--",) * (len(STEPS) + 1)]
    rows += [
        (name, *(cell if cell in (OK, NONE) else "**error**" for cell in _cells(ended)))
        for name, ended in results.items()
    ]
    errors = [
        f"- {name}, {step}: {cell}"
        for name, ended in results.items()
        for step, cell in zip(STEPS, _cells(ended), strict=True)
        if cell not in (OK, NONE)
    ]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return (
        "# Every command on every task\n\nTwo teachers of each task are fused to half width and distilled for a few "
        "steps. Then `compress` finetunes, evaluates, exports and times the student, and the programs of its model "
        "card run as they are written: the one that loads it with transformers, and the one that needs onnxruntime "
        f"alone, where there is one. `python -m benchmarks.tasks.commands`\n\n{table}\n"
        + "".join(f"\n{error}" for error in errors)
        + ("\n" if errors else "")
    )


def _cells(ended: Mapping[str, str]) -> list[str]:
    return [ended.get(step, "not run") for step in STEPS]


def _run(*arguments: str) -> str:
    """Run a command line in this process: `OK`, or the last line of its errors."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = run_command(arguments)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return OK if code == 0 else f"exit code {code}: {_last_line(errors.getvalue())}"


def _program(text: str, folder: Path, *arguments: str) -> str:
    """Run a program in a folder: `OK`, or the last line of its errors."""
    command = [sys.executable, "-W", "ignore", "-c", text, *arguments]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return OK if ran.returncode == 0 else f"exit code {ran.returncode}: {_last_line(ran.stderr)}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _picture(file: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (20, 24)).save(file)
    return file


if __name__ == "__main__":
    typer.run(main)
