"""Train the text teachers from scratch: BERTs on SST-2, GPT-2s, Llamas and T5s on tiny Shakespeare; minutes on a CPU.

    python -m benchmarks.text.teachers --data sst2 --text tinyshakespeare.txt                all, one after the other
    python -m benchmarks.text.teachers --data sst2 --only bert-a --only bert-b              some

Each `teachers/<name>.yaml` becomes a plain Hugging Face folder `<output>/<name>`; those that are there are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.common.teachers import Progress, Trained, choose, train_missing
from benchmarks.text.corpora import Corpus, domain, shakespeare, sst2
from benchmarks.text.pairs import seq2seq
from benchmarks.text.recipe import Task, TextRecipe
from benchmarks.text.training import train_teacher

HERE = Path(__file__).parent
_CORPORA: dict[Task, Callable[[Path], Corpus]] = {"sst2": sst2, "shakespeare": shakespeare, "seq2seq": seq2seq}
#: The option that names the data of a task.
_OPTIONS: dict[Task, str] = {"sst2": "--data", "shakespeare": "--text", "seq2seq": "--text", "domain": "--domains"}


def main(
    data: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with SST-2's train.tsv, dev.tsv, test.tsv."),
    ] = None,
    text: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="File with tiny Shakespeare.")] = None,
    domains: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder that benchmarks.experts.domains has written."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the teachers.")] = HERE / "out",
    recipes: Annotated[Path, typer.Option(help="Folder of the recipes, a YAML file each.")] = HERE / "teachers",
    only: Annotated[list[str] | None, typer.Option(help="Names of the teachers to train; all if left out.")] = None,
    threads: Annotated[int, typer.Option(help="Another number gives other roundings.")] = 1,
) -> None:
    """Train every teacher that is not finished yet and print a line for each."""
    torch.set_num_threads(threads)
    chosen = choose(recipes, only, output, TextRecipe)
    sources: dict[Task, Path | None] = {"sst2": data, "shakespeare": text, "seq2seq": text, "domain": domains}
    for name, recipe in chosen.items():
        # Said before minutes are spent on the first teacher.
        if sources[recipe.task] is None and not (output / name).exists():
            raise typer.BadParameter(f"{name} needs {_OPTIONS[recipe.task]}")

    @cache
    def corpus(task: Task, name: str) -> Corpus:
        source = sources[task]
        assert source is not None
        return domain(source, name) if task == "domain" else _CORPORA[task](source)

    def train(recipe: TextRecipe, folder: Path, progress: Progress) -> Trained:
        return train_teacher(recipe, corpus(recipe.task, recipe.domain), folder, progress)

    for line in train_missing(chosen, output, train):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
