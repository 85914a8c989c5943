"""`compress finetune`: distillation of a student that exists."""

from __future__ import annotations

from typing import Annotated

import typer

from compressor.cli import options as o
from compressor.cli.completion import complete_models
from compressor.cli.student_job import JobSettings, run_job


@o.takes_flags(
    "--revision",
    "--trust-remote-code",
    "--output",
    *o.DATA_FLAGS,
    "--eval-samples",
    *o.TRAINING,
    "--weights",
    "--mixture",
    "--classes",
    *o.DELIVERY,
)
def finetune_command(
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT",
            help="The model to finetune: a folder, a built-in name or a Hub id.",
            autocompletion=complete_models,
        ),
    ],
    teachers: o.TeacherFlags,
    given: o.Given,
    push_to_hub: o.PushToHub = None,
    with_paths: o.WithPaths = False,
    force: o.Force = False,
    resume: o.Resume = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Distil teachers into a student that exists already, and write it to a new folder.

    The student learns the teachers' mean prediction; labels are not needed, but count too with --label-weight. The
    student's own folder stays as it is.

    Example: compress finetune student -t ./teacher-a -t ./teacher-b --data ./images --steps 500 -o student-tuned
    """
    recipe = o.to_recipe({"--teachers": tuple(teachers), **given})
    recipe = recipe.model_copy(update={"student": student})
    run_job(recipe, JobSettings(push_to_hub, with_paths, force, resume, json, quiet, debug))
