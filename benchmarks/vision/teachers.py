"""Train the vision teachers from scratch: small ViTs on CIFAR-10; minutes each on a CPU.

    python benchmarks/vision/teachers.py --data cifar10                                all, one after the other
    python benchmarks/vision/teachers.py --data cifar10 --only vit-0 --only vit-1      some

Each `teachers/<name>.yaml` becomes a plain Hugging Face folder `<output>/<name>` that appears when it is finished and
is skipped from then on; the recipe and `training.json` with the scores lie in it.  `<output>/results.json` gathers
these.  The line that is printed leaves the test score out, so that nobody chooses settings by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from pictures import Cifar, cifar10
from recipe import TeacherRecipe, read_recipe, write_recipe
from training import Scores, train_teacher

from compressor.models.staging import staged
from compressor.pipeline.environment import environment

HERE = Path(__file__).parent
RECIPE, RESULT = "teacher.yaml", "training.json"


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
    if unknown := set(only or ()) - set(_names(recipes)):
        raise typer.BadParameter(f"no recipe for {', '.join(sorted(unknown))}: there are {', '.join(_names(recipes))}")
    chosen = {name: read_recipe(recipes / f"{name}.yaml") for name in only or _names(recipes)}
    _check(chosen, output)

    @cache
    def images() -> Cifar:
        return cifar10(data)

    for name, recipe in chosen.items():
        folder = output / name
        done = folder.exists()
        if not done:
            with staged(folder) as partial:
                _train(name, recipe, images(), partial, device)
        typer.echo(_line(name, _result(folder)) + (" (finished before)" if done else ""))
        _gather(output, _names(recipes))


def _names(recipes: Path) -> list[str]:
    return sorted(file.stem for file in recipes.glob("*.yaml"))


def _check(chosen: dict[str, TeacherRecipe], output: Path) -> None:
    """Say what is in the way before minutes are spent on the first teacher."""
    for name, recipe in chosen.items():
        folder = output / name
        if folder.exists() and read_recipe(folder / RECIPE) != recipe:
            raise typer.BadParameter(f"{folder} was made by another recipe: remove it, or choose another --output")


def _train(name: str, recipe: TeacherRecipe, data: Cifar, folder: Path, device: str) -> None:
    def progress(step: int, scores: Scores) -> None:
        typer.echo(f"{name}: step {step} of {recipe.steps}, validation {_show(scores)}", err=True)

    trained = train_teacher(recipe, data, folder, progress, device)
    write_recipe(recipe, folder / RECIPE)
    result = {**asdict(trained), "environment": environment()}
    (folder / RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def _gather(output: Path, names: Iterable[str]) -> None:
    """Write the results of all finished teachers, whichever run made them."""
    results = {name: _result(output / name) for name in names if (output / name / RESULT).exists()}
    partial = output / "results.json.partial"
    partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    partial.replace(output / "results.json")


def _line(name: str, result: dict[str, Any]) -> str:
    return (
        f"{name}: validation {_show(result['validation'])}, "
        f"step {result['best_step']} of {result['steps']}, {result['seconds']:.0f} s"
    )


def _show(scores: Scores) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in scores.items())


if __name__ == "__main__":
    typer.run(main)
