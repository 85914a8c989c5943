"""Teachers from recipes, whatever they learn: a YAML file gives a plain Hugging Face folder, once.

A folder appears when its teacher is finished; the recipe and `training.json` with the scores lie in it, and
`results.json` beside the folders gathers these.  Lines leave the test score out, so that nobody chooses settings by it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field

from compressor.pipeline.environment import environment
from compressor.utils.files import atomic_directory

RECIPE, RESULT = "teacher.yaml", "training.json"
Scores = dict[str, float]
#: Called at each look at the validation data with the step and what was measured there.
Progress = Callable[[int, Scores], None]


class TeacherRecipe(BaseModel):
    """How one teacher is made: a config to be trained from scratch, and the training.

    Attributes:
        seed: of all that is random: first weights, order of the samples, dropout, crops and flips.
        config: `model_type` and whatever that type's config takes; what follows from the data is filled in.
        steps: optimiser steps of AdamW, the learning rate rising over the first tenth and falling as a cosine.
        evaluate_every: steps between looks at the validation data; the weights of the best look are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    config: dict[str, Any]
    steps: int = Field(gt=0)
    evaluate_every: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


Recipe = TypeVar("Recipe", bound=TeacherRecipe)


@dataclass(frozen=True)
class Trained:
    """What became of a recipe.

    Attributes:
        validation, test: what the saved folder scores, without label smoothing.
        best_step: the one whose weights were kept, chosen by the validation data.
        seconds: of the training, the looks at the validation data included.
    """

    validation: Scores
    test: Scores
    best_step: int
    steps: int
    seconds: float
    parameters: int


def choose(recipes: Path, only: Sequence[str] | None, output: Path, kind: type[Recipe]) -> dict[str, Recipe]:
    """The recipes of a folder by name, or only some of them.

    Raises:
        typer.BadParameter: there is no such recipe, or another one has made the teacher that is there.
    """
    known = _known(recipes, kind)
    if unknown := set(only or ()) - set(known):
        raise typer.BadParameter(f"no recipe for {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    chosen = {name: known[name] for name in only or known}
    for name, recipe in chosen.items():
        made = output / name / RECIPE
        if made.parent.exists() and _read(made, kind) != recipe:
            raise typer.BadParameter(f"{made.parent} was made by another recipe: remove it, or choose another --output")
    return chosen


def train_missing(
    chosen: Mapping[str, Recipe], output: Path, train: Callable[[Recipe, Path, Progress], Trained]
) -> Iterator[str]:
    """Train every teacher that is not finished yet; a line for each.

    Args:
        chosen: see `choose`.
        output: of the teachers' folders.
        train: trains by a recipe and writes the teacher into a folder that exists.
    """
    for name, recipe in chosen.items():
        folder = output / name
        done = folder.exists()
        if not done:
            with atomic_directory(folder) as partial:
                trained = train(recipe, partial, _telling(name, recipe))
                content = yaml.safe_dump(recipe.model_dump(), sort_keys=False)
                (partial / RECIPE).write_text(content, encoding="utf-8")
                result = {**asdict(trained), "environment": environment()}
                (partial / RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        _gather(output)
        yield _line(name, _result(folder)) + (" (finished before)" if done else "")


def _known(recipes: Path, kind: type[Recipe]) -> dict[str, Recipe]:
    """The recipes of a folder by name; a file with a list of `seeds` holds one for each, named by it."""
    known: dict[str, Recipe] = {}
    for file in sorted(recipes.glob("*.yaml")):
        content = _content(file)
        # Beside a `seed` a list of them is left to be refused.
        seeds = None if "seed" in content else content.pop("seeds", None)
        named = {file.stem: {}} if seeds is None else {f"{file.stem}-{seed}": {"seed": seed} for seed in seeds}
        known |= {name: kind.model_validate(content | its) for name, its in named.items()}
    return known


def _read(file: Path, kind: type[Recipe]) -> Recipe:
    """Read one recipe; pydantic's error names what is wrong with it."""
    return kind.model_validate(_content(file))


def _content(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _telling(name: str, recipe: TeacherRecipe) -> Progress:
    def progress(step: int, scores: Scores) -> None:
        typer.echo(f"{name}: step {step} of {recipe.steps}, validation {_show(scores)}", err=True)

    return progress


def _result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def _gather(output: Path) -> None:
    """Write the results of all finished teachers, whichever run made them."""
    results = {file.parent.name: _result(file.parent) for file in sorted(output.glob(f"*/{RESULT}"))}
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
