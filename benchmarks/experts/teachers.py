"""Train the experts: ViTs that know some classes or a share of CIFAR-10; minutes each on a CPU.

    python -m benchmarks.experts.teachers --data cifar10 --teachers teachers -o teachers --only class-0 --only class-1

Each `teachers/<name>.yaml` becomes a plain Hugging Face folder `<output>/<name>`; those that are there are skipped.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.common.setting import Places
from benchmarks.common.teachers import Progress, Trained, choose, train_missing
from benchmarks.experts.recipe import ExpertRecipe
from benchmarks.vision.pictures import Cifar, cifar10
from benchmarks.vision.training import train_teacher

HERE = Path(__file__).parent


def main(
    data: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder with CIFAR-10's train.parquet, test.parquet.")
    ],
    teachers: Annotated[list[Path], typer.Option(exists=True, help="Folder of the models that are fine-tuned.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the experts.")] = HERE / "out",
    recipes: Annotated[Path, typer.Option(help="Folder of the recipes, a YAML file each.")] = HERE / "teachers",
    only: Annotated[list[str] | None, typer.Option(help="Names of the experts to train; all if left out.")] = None,
    threads: Annotated[int, typer.Option(help="Another number gives other roundings.")] = 1,
) -> None:
    """Train every expert that is not finished yet and print a line for each."""
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    chosen = choose(recipes, only, output, ExpertRecipe)
    places = Places((*teachers, output), data, output)
    for recipe in chosen.values():
        if recipe.start:
            # Looked for before minutes are spent on the first expert.
            places.teacher(recipe.start)

    @cache
    def images() -> Cifar:
        return cifar10(data)

    def train(recipe: ExpertRecipe, folder: Path, progress: Progress) -> Trained:
        start = places.teacher(recipe.start) if recipe.start else None
        whole = images()
        return train_teacher(recipe, replace(whole, train=recipe.seen(whole.train)), folder, progress, start=start)

    for line in train_missing(chosen, output, train):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
