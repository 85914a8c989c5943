"""`compress fuse`: the whole job from teachers to a finished student."""

from __future__ import annotations

from compressor.cli import options as o
from compressor.cli.console import print_note
from compressor.cli.student_job import JobSettings, run_job


@o.takes_flags(
    "--revision", "--trust-remote-code", *o.SHAPE, "--output", *o.DATA_FLAGS, "--samples", "--eval-samples",
    *o.FUSION_FLAGS, *o.TRAINING,
    "--no-refit", "--no-finetune", *o.DELIVERY, *o.PAPER_FLAGS,
)  # fmt: skip
def fuse_command(
    teachers: o.Teachers,
    given: o.Given,
    preset: o.PresetName = None,
    push_to_hub: o.PushToHub = None,
    with_paths: o.WithPaths = False,
    force: o.Force = False,
    resume: o.Resume = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Fuse teachers into one narrow student, finetune it shortly, measure it and write a folder.

    Teachers may be classifiers of images or texts, taggers, or language models of one model type. The folder loads with
    from_pretrained of transformers. Without --data (and with teachers that are not built in) the weights alone are
    aligned, which costs most of the accuracy.

    Example: compress fuse --width 0.5 ./teacher-a ./teacher-b --data ./images --output student
    """
    unused = [name for name in o.TRAINING if given[name] is not None]
    if given["--no-finetune"] and unused:
        print_note(f"note: with --no-finetune nothing comes of {', '.join(unused)}")
    recipe = o.to_recipe({"--teachers": tuple(teachers), **given}, preset=preset)
    run_job(recipe, JobSettings(push_to_hub, with_paths, force, resume, json, quiet, debug))
