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
from compressor.cli.show import loading, remark, say, say_json, working
from compressor.pipeline.places import work_folder
from compressor.recipe import Recipe

_BEGUN = time.perf_counter()


def fuse(
    teachers: o.Teachers,
    width: o.Width = None,
    target_params: o.TargetParams = None,
    target_flops: o.TargetFlops = None,
    max_latency: o.MaxLatency = None,
    depth: o.Depth = None,
    output: o.Output = None,
    data: o.Data = None,
    train_split: o.TrainSplit = None,
    eval_split: o.EvalSplit = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    text_column: o.TextColumn = None,
    target_column: o.TargetColumn = None,
    max_length: o.MaxLength = None,
    samples: o.Samples = None,
    eval_samples: o.EvalSamples = None,
    steps: o.Steps = None,
    batch_size: o.BatchSize = None,
    augment: o.Augment = None,
    learning_rate: o.LearningRate = None,
    learning_rates: o.LearningRates = None,
    search_steps: o.SearchSteps = None,
    distil_weight: o.DistilWeight = None,
    label_weight: o.LabelWeight = None,
    losses: o.Losses = None,
    accumulate: o.Accumulate = None,
    precision: o.Precision = None,
    recompute: o.Recompute = None,
    tensorboard: o.Tensorboard = None,
    validate_every: o.ValidateEvery = None,
    patience: o.Patience = None,
    cache_logits: o.CacheLogits = None,
    preset: o.Preset = None,
    residual: o.Residual = None,
    narrowing: o.Narrowing = None,
    inner: o.Inner = None,
    features: o.Features = None,
    tokens: o.Tokens = None,
    preparation: o.Preparation = None,
    cost: o.Cost = None,
    normalise: o.Normalise = None,
    solver: o.Solver = None,
    epsilon: o.Epsilon = None,
    mass: o.Mass = None,
    relaxation: o.Relaxation = None,
    marginals: o.Marginals = None,
    heads: o.Heads = None,
    query_key: o.QueryKey = None,
    scaling: o.Scaling = None,
    weights: o.Weights = None,
    ridge: o.Ridge = None,
    anchor: o.Anchor = None,
    no_refit: o.NoRefit = None,
    no_finetune: o.NoFinetune = None,
    no_latency: o.NoLatency = None,
    no_onnx: o.NoOnnx = None,
    no_cache: o.NoCache = None,
    formats: o.Formats = None,
    seed: o.Seed = None,
    device: o.Device = None,
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
    recipe = o.to_recipe(
        {
            "--teachers": tuple(teachers),
            "--width": width,
            "--target-params": target_params,
            "--target-flops": target_flops,
            "--max-latency": max_latency,
            "--depth": depth,
            "--output": output,
            "--data": data,
            "--train-split": train_split,
            "--eval-split": eval_split,
            "--image-column": image_column,
            "--label-column": label_column,
            "--text-column": text_column,
            "--target-column": target_column,
            "--max-length": max_length,
            "--samples": samples,
            "--eval-samples": eval_samples,
            "--steps": steps,
            "--batch-size": batch_size,
            "--augment": augment,
            "--learning-rate": learning_rate,
            "--learning-rates": learning_rates,
            "--search-steps": search_steps,
            "--distil-weight": distil_weight,
            "--label-weight": label_weight,
            "--losses": losses,
            "--accumulate": accumulate,
            "--precision": precision,
            "--recompute": recompute,
            "--tensorboard": tensorboard,
            "--validate-every": validate_every,
            "--patience": patience,
            "--cache-logits": cache_logits,
            "--residual": residual,
            "--narrowing": narrowing,
            "--inner": inner,
            "--features": features,
            "--tokens": tokens,
            "--preparation": preparation,
            "--cost": cost,
            "--normalise": normalise,
            "--solver": solver,
            "--epsilon": epsilon,
            "--mass": mass,
            "--relaxation": relaxation,
            "--marginals": marginals,
            "--heads": heads,
            "--query-key": query_key,
            "--scaling": scaling,
            "--weights": weights,
            "--ridge": ridge,
            "--anchor": anchor,
            "--no-refit": no_refit,
            "--no-finetune": no_finetune,
            "--no-latency": no_latency,
            "--no-onnx": no_onnx,
            "--no-cache": no_cache,
            "--formats": formats,
            "--seed": seed,
            "--device": device,
        },
        preset=preset,
    )
    _make(recipe, push_to=push_to_hub, force=force, resume=resume, json=json, debug=debug)


def finetune(
    student: Annotated[
        str, typer.Argument(metavar="STUDENT", help="The model to finetune: a folder, a built-in name or a Hub id.")
    ],
    teachers: o.TeacherFlags,
    output: o.Output = None,
    data: o.Data = None,
    train_split: o.TrainSplit = None,
    eval_split: o.EvalSplit = None,
    image_column: o.ImageColumn = None,
    label_column: o.LabelColumn = None,
    text_column: o.TextColumn = None,
    target_column: o.TargetColumn = None,
    max_length: o.MaxLength = None,
    eval_samples: o.EvalSamples = None,
    steps: o.Steps = None,
    batch_size: o.BatchSize = None,
    augment: o.Augment = None,
    learning_rate: o.LearningRate = None,
    learning_rates: o.LearningRates = None,
    search_steps: o.SearchSteps = None,
    distil_weight: o.DistilWeight = None,
    label_weight: o.LabelWeight = None,
    losses: o.Losses = None,
    accumulate: o.Accumulate = None,
    precision: o.Precision = None,
    recompute: o.Recompute = None,
    tensorboard: o.Tensorboard = None,
    validate_every: o.ValidateEvery = None,
    patience: o.Patience = None,
    cache_logits: o.CacheLogits = None,
    weights: o.Weights = None,
    no_latency: o.NoLatency = None,
    no_onnx: o.NoOnnx = None,
    no_cache: o.NoCache = None,
    formats: o.Formats = None,
    seed: o.Seed = None,
    device: o.Device = None,
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
    recipe = o.to_recipe(
        {
            "--teachers": tuple(teachers),
            "--output": output,
            "--data": data,
            "--train-split": train_split,
            "--eval-split": eval_split,
            "--image-column": image_column,
            "--label-column": label_column,
            "--text-column": text_column,
            "--target-column": target_column,
            "--max-length": max_length,
            "--eval-samples": eval_samples,
            "--steps": steps,
            "--batch-size": batch_size,
            "--augment": augment,
            "--learning-rate": learning_rate,
            "--learning-rates": learning_rates,
            "--search-steps": search_steps,
            "--distil-weight": distil_weight,
            "--label-weight": label_weight,
            "--losses": losses,
            "--accumulate": accumulate,
            "--precision": precision,
            "--recompute": recompute,
            "--tensorboard": tensorboard,
            "--validate-every": validate_every,
            "--patience": patience,
            "--cache-logits": cache_logits,
            "--weights": weights,
            "--no-latency": no_latency,
            "--no-onnx": no_onnx,
            "--no-cache": no_cache,
            "--formats": formats,
            "--seed": seed,
            "--device": device,
        }
    )
    recipe = recipe.model_copy(update={"student": student})
    _make(recipe, push_to=push_to_hub, force=force, resume=resume, json=json, debug=debug)


def run(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe: a YAML file, such as recipe.yaml of an output folder.")
    ],
    output: o.Output = None,
    seed: o.Seed = None,
    device: o.Device = None,
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
    changes = o.nested({"--output": output, "--seed": seed, "--device": device})
    if changes:
        names = {path: name for name, path in o.FLAGS.items()}
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
