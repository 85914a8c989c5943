"""The commands that make a student: fuse, finetune, run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from compressor import processes
from compressor import recipe as recipes
from compressor.cli import options as o
from compressor.cli.flags import FLAGS, nested, to_recipe
from compressor.cli.show import loading, remark, say, say_json, working
from compressor.pipeline.places import work_folder
from compressor.recipe import Recipe

_BEGUN = time.perf_counter()


@o.takes(*o.SHAPE, "--output", *o.DATA, "--samples", "--eval-samples", *o.TRAINING, *o.FUSION, *o.DELIVERY)
def fuse(
    teachers: o.Teachers,
    given: o.Given,
    push_to_hub: o.PushToHub = None,
    force: o.Force = False,
    resume: o.Resume = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Fuse teachers into one narrow student, finetune it shortly, measure it and write a folder.

    Teachers may be classifiers of images or texts, taggers, or language models of one model type. The folder loads with
    from_pretrained of transformers. Without --data (and with teachers that are not built in) the weights alone are
    aligned, which costs most of the accuracy.

    Example: compress fuse --width 0.5 ./teacher-a ./teacher-b --data ./images --output student
    """
    if given["--no-finetune"] and (idle := [name for name in o.TRAINING if given[name] is not None]):
        remark(f"note: with --no-finetune nothing comes of {', '.join(idle)}")
    preset = given.pop("--preset")
    recipe = to_recipe({"--teachers": tuple(teachers), **given}, preset=preset)
    _make(recipe, push_to=push_to_hub, force=force, resume=resume, json=json, debug=debug)


@o.takes("--output", *o.DATA, "--eval-samples", *o.TRAINING, "--weights", *o.DELIVERY)
def finetune(
    student: Annotated[
        str, typer.Argument(metavar="STUDENT", help="The model to finetune: a folder, a built-in name or a Hub id.")
    ],
    teachers: o.TeacherFlags,
    given: o.Given,
    push_to_hub: o.PushToHub = None,
    force: o.Force = False,
    resume: o.Resume = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Distil teachers into a student that exists already, and write it to a new folder.

    The student learns the teachers' mean prediction; labels are not needed, but count too with --label-weight. The
    student's own folder stays as it is.

    Example: compress finetune student -t ./teacher-a -t ./teacher-b --data ./images --steps 500 -o student-tuned
    """
    recipe = to_recipe({"--teachers": tuple(teachers), **given})
    recipe = recipe.model_copy(update={"student": student})
    _make(recipe, push_to=push_to_hub, force=force, resume=resume, json=json, debug=debug)


@o.takes("--output", "--seed", "--device")
def run(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe: a YAML file, such as recipe.yaml of an output folder.")
    ],
    given: o.Given,
    push_to_hub: o.PushToHub = None,
    force: o.Force = False,
    resume: o.Resume = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Do what a recipe file says; the same recipe gives the same weights.

    Flags that are given replace what the recipe says.

    Example: compress run student/recipe.yaml --output student-again
    """
    read = recipes.read(recipe)
    changes = nested(given)
    if changes:
        names = {path: name for name, path in FLAGS.items()}
        said = read.model_dump(mode="json", exclude_unset=True)
        read = recipes.build({**said, **changes}, where="", names=names)
    _make(read, push_to=push_to_hub, force=force, resume=resume, json=json, debug=debug)


def _make(recipe: Recipe, *, push_to: str | None, force: bool, resume: bool, json: bool, debug: bool) -> None:
    with _hinting(recipe), working(debug) as progress:
        with loading():
            from compressor.pipeline import hub
            from compressor.pipeline import run as job

        if push_to is not None:
            hub.check_push(push_to)
        report = job.run(recipe, force=force, resume=resume, progress=progress, begun=_BEGUN)
    if not processes.first():
        return
    for line in report["warnings"]:
        remark(f"warning: {line}")
    for line in report["notes"]:
        remark(f"note: {line}")
    if json:
        say_json(report)
    else:
        from compressor.report.summary import summary, table_of

        say(table_of(report), *summary(report))
    if push_to is not None:
        # The folder is finished, and said to be: what the network does can no longer harm it.
        with working(debug) as progress:
            progress("push", None, f"uploading to {push_to}")
            address = hub.push(report["recipe"]["output"], push_to)
        remark(f"pushed to {address}")


@contextmanager
def _hinting(recipe: Recipe) -> Iterator[None]:
    """Say after an interruption what is left and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        work = work_folder(recipe.output)
        hint = f"{work} was kept: go on by adding --resume to the same command" if work.exists() else "nothing is left"
        raise KeyboardInterrupt(f"{recipe.output} was not written; {hint}") from None
