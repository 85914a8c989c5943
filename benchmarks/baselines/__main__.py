"""The contest, one command:

    python -m benchmarks.students --data data --teachers teachers -o benchmarks/results/students

Figures that are there already are not measured again, so a run goes on where it stopped, and may be done in pieces:
`--event`, `--contender`, `--seeds` and `--most-steps` say which.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers.utils import logging

from benchmarks.baselines.contenders import CONTENDERS
from benchmarks.baselines.contest import hold
from benchmarks.baselines.curves import draw
from benchmarks.baselines.pages import page
from benchmarks.baselines.settings import EVENTS
from benchmarks.common.results import Store
from benchmarks.common.setting import Arena, Places
from compressor.pipeline.environment import environment

COMMAND = "python -m benchmarks.students --data data --teachers teachers -o benchmarks/results/students"


def main(
    data: Annotated[Path, typer.Option(exists=True, help="Folder with cifar10, sst2 and tinyshakespeare.txt.")],
    teachers: Annotated[list[Path], typer.Option(exists=True, help="Folder of teachers' folders; may be repeated.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the figures and the page.")],
    event: Annotated[list[str] | None, typer.Option(help=f"Only this one of {'; '.join(EVENTS)}.")] = None,
    contender: Annotated[list[str] | None, typer.Option(help=f"Only this one of {'; '.join(CONTENDERS)}.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Only the first so many; the rest can follow later.")] = None,
    most_steps: Annotated[int | None, typer.Option(help="No finetune longer than this.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    """Measure what is missing, and write the page and its curves."""
    for given, known, what in ((event, EVENTS, "event"), (contender, CONTENDERS, "contender")):
        for name in given or ():
            if name not in known:
                raise typer.BadParameter(f"unknown {what} '{name}' (known: {'; '.join(known)})")
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    store = Store(output / "students.json")
    store.content["command"] = COMMAND
    store.content.setdefault("environment", environment())
    with tempfile.TemporaryDirectory(prefix="students-") as scratch:
        places = Places(tuple(teachers), data, Path(scratch))
        for name in event or EVENTS:
            chosen = EVENTS[name]
            arena = Arena(chosen.setting, places)
            for line in hold(chosen, arena, store, contender or list(CONTENDERS), seeds or chosen.seeds, most_steps):
                typer.echo(line)
    (output / "students.md").write_text(page(store), encoding="utf-8")
    draw(store, output)


if __name__ == "__main__":
    typer.run(main)
