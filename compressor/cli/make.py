"""The commands that make a student: fuse, finetune, run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from compressor import recipe as recipes
from compressor.cli import options as o
from compressor.cli.console import loading, print_json, print_note, print_results, working
from compressor.cli.flags import FLAGS, nested, to_recipe
from compressor.errors import UserError
from compressor.recipe import Recipe
from compressor.utils import distributed
from compressor.utils.work_folders import work_folder

_BEGUN = time.perf_counter()


@o.takes_flags(*o.SHAPE, "--output", *o.DATA, "--samples", "--eval-samples", *o.TRAINING, *o.FUSION, *o.DELIVERY)
def fuse_command(
    teachers: o.Teachers,
    given: o.Given,
    push_to_hub: o.PushToHub = None,
    with_paths: o.WithPaths = False,
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
        print_note(f"note: with --no-finetune nothing comes of {', '.join(idle)}")
    preset = given.pop("--preset")
    recipe = to_recipe({"--teachers": tuple(teachers), **given}, preset=preset)
    _make(recipe, push_to=push_to_hub, paths=with_paths, force=force, resume=resume, json=json, debug=debug)


@o.takes_flags("--output", *o.DATA, "--eval-samples", *o.TRAINING, "--weights", *o.DELIVERY)
def finetune_command(
    student: Annotated[
        str, typer.Argument(metavar="STUDENT", help="The model to finetune: a folder, a built-in name or a Hub id.")
    ],
    teachers: o.TeacherFlags,
    given: o.Given,
    push_to_hub: o.PushToHub = None,
    with_paths: o.WithPaths = False,
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
    _make(recipe, push_to=push_to_hub, paths=with_paths, force=force, resume=resume, json=json, debug=debug)


@o.takes_flags("--output", "--seed", "--device")
def recipe_command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe: a YAML file, such as recipe.yaml of an output folder.")
    ],
    given: o.Given,
    push_to_hub: o.PushToHub = None,
    with_paths: o.WithPaths = False,
    force: o.Force = False,
    resume: o.Resume = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Do what a recipe file says; the same recipe gives the same weights.

    Flags that are given replace what the recipe says.

    Example: compress run student/recipe.yaml --output student-again
    """
    read = recipes.read_recipe(recipe)
    changes = nested(given)
    if changes:
        names = {path: name for name, path in FLAGS.items()}
        said = read.model_dump(mode="json", exclude_unset=True)
        read = recipes.build_recipe({**said, **changes}, where="", names=names)
    _make(read, file=recipe, push_to=push_to_hub, paths=with_paths, force=force, resume=resume, json=json, debug=debug)


def _make(
    recipe: Recipe,
    *,
    push_to: str | None,
    paths: bool,
    force: bool,
    resume: bool,
    json: bool,
    debug: bool,
    file: str | None = None,
) -> None:
    if paths and push_to is None:
        raise UserError("--with-paths is of --push-to-hub: without that nothing is uploaded")
    with _hinting(recipe), working(debug) as progress:
        with loading():
            from compressor.pipeline import hub
            from compressor.pipeline import run as job

        if push_to is not None:
            hub.check_push(push_to)
        report = job.run_recipe(
            recipe, force=force, resume=resume, progress=progress, begun=_BEGUN, file=file, remark=print_note
        )
    if not distributed.is_main_process():
        return
    for line in report["warnings"]:
        print_note(f"warning: {line}")
    for line in report["notes"]:
        print_note(f"note: {line}")
    if json:
        print_json(report)
    else:
        from compressor.report.summary import summary_lines, table_of

        print_results(table_of(report), *summary_lines(report))
    if push_to is not None:
        # The folder is finished, and said to be: what the network does can no longer harm it.
        with working(debug) as progress:
            progress("push", None, f"uploading to {push_to}")
            address = hub.push(report["recipe"]["output"], push_to, paths=paths)
        print_note(f"pushed to {address}")


@contextmanager
def _hinting(recipe: Recipe) -> Iterator[None]:
    """Say after an interruption what is left and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        work = work_folder(recipe.output)
        hint = f"{work} was kept: go on by adding --resume to the same command" if work.exists() else "nothing is left"
        raise KeyboardInterrupt(f"{recipe.output} was not written; {hint}") from None
