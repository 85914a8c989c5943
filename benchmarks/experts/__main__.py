"""Unlike teachers, one command:

    python -m benchmarks.experts --data data --teachers teachers -o benchmarks/results/experts

Figures that are there already are not measured again, so a run goes on where it stopped, and may be done in pieces:
`--setting`, `--contender`, `--seeds`, `--samples` and `--most-steps` say which.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers.utils import logging

from benchmarks.common.results import Store
from benchmarks.common.setting import Arena, Places
from benchmarks.experts.contenders import CONTENDERS
from benchmarks.experts.contest import hold
from benchmarks.experts.curves import draw
from benchmarks.experts.pages import page
from benchmarks.experts.settings import EVENTS, MOST_STEPS, SAMPLES, USUAL_SAMPLES
from compressor.pipeline.environment import environment

COMMAND = "python -m benchmarks.experts --data data --teachers teachers -o benchmarks/results/experts"


def main(
    data: Annotated[Path, typer.Option(exists=True, help="Folder with cifar10 and domains.")],
    teachers: Annotated[list[Path], typer.Option(exists=True, help="Folder of teachers' folders; may be repeated.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the figures and the page.")],
    setting: Annotated[list[str] | None, typer.Option(help=f"Only this one of {'; '.join(EVENTS)}.")] = None,
    contender: Annotated[list[str] | None, typer.Option(help=f"Only this one of {'; '.join(CONTENDERS)}.")] = None,
    seeds: Annotated[int, typer.Option(help="Draws of the samples.")] = 3,
    samples: Annotated[list[int] | None, typer.Option(help=f"One of {', '.join(map(str, SAMPLES))}.")] = None,
    most_steps: Annotated[int, typer.Option(help="No finetune longer than this.")] = MOST_STEPS,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    draw_only: Annotated[bool, typer.Option("--draw-only", help="Write page and curves of what is measured.")] = False,
) -> None:
    """Measure what is missing of the settings whose teachers are there, and write the page and its curves."""
    for given, known, what in (
        (setting, tuple(EVENTS), "setting"),
        (contender, tuple(CONTENDERS), "contender"),
        (samples, SAMPLES, "number of samples"),
    ):
        for name in given or ():
            if name not in known:
                raise typer.BadParameter(f"unknown {what} '{name}' (known: {'; '.join(map(str, known))})")
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    store = Store(output / "experts.json")
    store.content["command"] = COMMAND
    store.content.setdefault("environment", environment())
    with tempfile.TemporaryDirectory(prefix="experts-") as scratch:
        places = Places(tuple(teachers), data, Path(scratch))
        for name in () if draw_only else setting or EVENTS:
            event = EVENTS[name]
            if absent := [one for one in event.setting.teachers[0] if not places.has_teacher(one)]:
                typer.echo(f"{name}: left out, no teacher {', '.join(absent)}; benchmarks.experts.teachers trains them")
                continue
            steps = [count for count in event.steps if count <= most_steps]
            for line in hold(
                event,
                Arena(event.setting, places),
                store,
                names=contender or list(CONTENDERS),
                seeds=seeds,
                samples=samples or USUAL_SAMPLES,
                steps=steps,
            ):
                typer.echo(line)
    (output / "experts.md").write_text(page(store), encoding="utf-8")
    draw(store, output)


if __name__ == "__main__":
    typer.run(main)
