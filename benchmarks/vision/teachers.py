"""Train the vision teachers from scratch: small ViTs on CIFAR-10; minutes each on a CPU.

    python -m benchmarks.vision.teachers --data cifar10                                all, one after the other
    python -m benchmarks.vision.teachers --data cifar10 --only vit-0 --only vit-1      some

Each `teachers/<name>.yaml` becomes a plain Hugging Face folder `<output>/<name>`; those that are there are skipped.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.common.teachers import Progress, TeacherRecipe, Trained, choose, train_missing
from benchmarks.vision.pictures import Cifar, cifar10
from benchmarks.vision.training import train_teacher

HERE = Path(__file__).parent


def main(
    data: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder with CIFAR-10's train.parquet, test.parquet.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the teachers.")] = HERE / "out",
    recipes: Annotated[Path, typer.Option(help="Folder of the recipes, a YAML file each.")] = HERE / "teachers",
    only: Annotated[list[str] | None, typer.Option(help="Names of the teachers to train; all if left out.")] = None,
    threads: Annotated[int, typer.Option(help="Another number gives other roundings.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda; another device gives other roundings.")] = "cpu",
) -> None:
    """Train every teacher that is not finished yet and print a line for each."""
    torch.set_num_threads(threads)
    chosen = choose(recipes, only, output, TeacherRecipe)

    @cache
    def images() -> Cifar:
        return cifar10(data)

    def train(recipe: TeacherRecipe, folder: Path, progress: Progress) -> Trained:
        return train_teacher(recipe, images(), folder, progress, device)

    for line in train_missing(chosen, output, train):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
