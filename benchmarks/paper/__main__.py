"""One command a table:

    python -m benchmarks.paper one-shot --data data --teachers teachers -o benchmarks/results/paper

Figures that are there already are not measured again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers.utils import logging

from benchmarks.common.results import Store
from benchmarks.common.setting import Arena, Places
from benchmarks.paper.pages import page
from benchmarks.paper.settings import SETTINGS
from benchmarks.paper.tables import TABLES, Table
from compressor.errors import UserError
from compressor.pipeline.environment import environment

#: What validation data chose, for all tables alike.
CHOICES = "choices.json"


def main(
    table: Annotated[str, typer.Argument(help=f"One of {', '.join(TABLES)}.")],
    data: Annotated[Path, typer.Option(exists=True, help="Folder with cifar10, sst2, tinyshakespeare.txt, seq2seq.")],
    teachers: Annotated[list[Path], typer.Option(exists=True, help="Folder of teachers' folders; may be repeated.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the JSON file and the page.")],
    setting: Annotated[list[str] | None, typer.Option(help="Only this setting; may be repeated.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Only the first so many; the rest can follow later.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    """Measure what a table lacks, and write its page."""
    if table not in TABLES:
        raise typer.BadParameter(f"unknown table '{table}' (known: {', '.join(TABLES)})")
    chosen = TABLES[table]
    for name in setting or ():
        if name not in chosen.settings:
            raise typer.BadParameter(f"unknown setting '{name}' (known: {', '.join(chosen.settings)})")
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    store = Store(output / f"{table}.json")
    store.content["command"] = f"python -m benchmarks.paper {table} --data data --teachers teachers -o results"
    store.content.setdefault("environment", environment())
    with tempfile.TemporaryDirectory(prefix="paper-") as scratch:
        places = Places(tuple(teachers), data, Path(scratch))
        for name in setting or chosen.settings:
            _measure(chosen, Arena(SETTINGS[name], places), store, Store(output / CHOICES), seeds or chosen.seeds)
            text = page(chosen, store, [SETTINGS[name] for name in chosen.settings])
            (output / f"{table}.md").write_text(text, encoding="utf-8")


def _measure(table: Table, arena: Arena, store: Store, chosen: Store, seeds: int) -> None:
    name = arena.setting.name
    choices = chosen.setting(name)
    for seed in range(seeds):
        for cell in table.cells(name):
            if store.get(name, cell.row, cell.column, seed) is not None:
                continue
            begun = time.perf_counter()
            try:
                figures = cell.trial.run(arena, seed, choices)
            except UserError as error:
                figures = {"refused": str(error)}
            store.put(name, cell.row, cell.column, seed, figures)
            chosen.write()
            took = time.perf_counter() - begun
            typer.echo(f"{name} | seed {seed} | {cell.row} | {cell.column}: {figures} ({took:.0f} s)")


if __name__ == "__main__":
    typer.run(main)
