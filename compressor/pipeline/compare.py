"""Models side by side: accuracy on data, or latency and cost without any."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressor.bench.accuracy import measure
from compressor.bench.size import count_parameters
from compressor.bench.table import to_json
from compressor.errors import UnsupportedError, UserError
from compressor.export.proofs import MODEL
from compressor.models.inputs import dummy_inputs, is_image_config
from compressor.models.load import Teacher, load_teacher
from compressor.pipeline.ensemble import check_device
from compressor.pipeline.environment import environment
from compressor.pipeline.measure import Contender, latency_report, text_length, time_contenders
from compressor.pipeline.prove import export_to_time
from compressor.pipeline.space import told_when_full
from compressor.pipeline.stages import Progress, Stages
from compressor.pipeline.subjects import open_subjects
from compressor.pipeline.table import Judge, Subject, make_rows, short_names, stored_bytes
from compressor.recipe import Recipe


def evaluate(recipe: Recipe, *, ensemble: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Measure the recipe's teachers, which may be any models of one task that answer in the same terms.

    Args:
        recipe: names models, data and device.
        ensemble: whether the mean of their predictions is measured too, as one more row.
        progress: told of every stage.

    Returns:
        JSON-ready: rows {name, accuracy, accuracy_error, f1, perplexity, samples, labelled, parameters, fingerprint},
        task, data, notes, seconds.  An ensemble has no fingerprint, and all the parameters.

    Raises:
        UserError: names, data or device cannot be used, the data has no labels, or one model is no ensemble.
    """
    if ensemble and len(recipe.teachers) < 2:
        raise UserError("an ensemble is of two models or more: name another, or leave out --ensemble")
    stages = Stages(progress)
    loaded, batches = open_subjects(recipe, "evaluating", stages, device=recipe.device)
    models = [one.model for one in loaded]
    names = short_names(recipe.teachers)
    sizes = [count_parameters(model) for model in models]
    prints: list[str | None] = [one.fingerprint for one in loaded]
    with stages("evaluate", "evaluating"):
        if ensemble:
            judge = Judge(models, [1.0] * len(models), batches, room=0)
            scores = [*judge.teachers, judge.ensemble]
            names, sizes, prints = [*names, "ensemble"], [*sizes, sum(sizes)], [*prints, None]
        else:
            scores = measure(models, batches)
    rows = []
    for name, found, parameters, fingerprint in zip(names, scores, sizes, prints, strict=True):
        rows.append(
            {
                "name": name,
                "accuracy": found.accuracy,
                "accuracy_error": found.accuracy_error,
                "f1": found.f1,
                "perplexity": found.perplexity,
                "samples": found.samples,
                "labelled": found.labelled,
                "parameters": parameters,
                "fingerprint": fingerprint,
            }
        )
    notes = [note for one in loaded for note in one.notes]
    return {
        "rows": rows,
        "task": batches.task.name,
        "data": batches.split.name,
        "notes": notes,
        "seconds": stages.report(),
    }


def bench(
    names: Sequence[str],
    *,
    batch_size: int,
    seconds: float,
    threads: int | None,
    onnx: bool,
    length: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Latency, multiply–accumulates and size of models of one kind of input, on random inputs.

    Args:
        names: folders, built-in names or Hub ids.
        batch_size: samples per call.
        seconds: least measuring time per model and backend.
        threads: of both backends; all cores of this process if omitted.
        onnx: whether ONNX Runtime is timed too: on a folder's own onnx/model.onnx, else on a temporary export.
        length: tokens of a text sample.
        device: of torch.
        progress: told of every stage.

    Returns:
        JSON-ready: table as in a report, latency in full, notes on what was left out, environment, seconds.

    Raises:
        UserError: a model cannot be loaded, or they read different kinds of input.
    """
    stages = Stages(progress)
    check_device(device)
    with stages("load", "loading") as tell:
        models = [load_teacher(name, device=device, progress=tell) for name in names]
        _check_inputs(models)
    labels = short_names(names)
    held = [text_length(model.config, length) for model in models]
    length = min((one for one in held if one is not None), default=length)
    subjects = [
        Subject(label, (model.model,), stored_bytes(model), None) for label, model in zip(labels, models, strict=True)
    ]
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        contenders = []
        for index, (label, model) in enumerate(zip(labels, models, strict=True)):
            path = None
            if onnx:
                with stages("export", f"exporting {label} to ONNX"), told_when_full(f"to {scratch}"):
                    path = _onnx_file(model, Path(scratch, str(index)), label, notes)
            contenders.append(Contender(label, (model.model,), None if path is None else (path,)))
        with stages("latency", f"timing batches of {batch_size} in turns"):
            timings = time_contenders(
                contenders, batch_size=batch_size, seconds=seconds, thread_count=threads, length=length
            )
    return {
        "table": to_json(make_rows(subjects, timings, length=length)),
        "latency": latency_report(timings, batch_size, seconds, length if held[0] else None),
        "notes": notes,
        "environment": environment(),
        "seconds": stages.report(),
    }


def _check_inputs(models: Sequence[Teacher]) -> None:
    first = models[0]
    sizes = {name: tuple(value.shape) for name, value in dummy_inputs(first.config, 1).items()}
    for model in models[1:]:
        if is_image_config(model.config) != is_image_config(first.config):
            raise UserError(f"{first.name} and {model.name} do not read the same kind of input: time them apart")
        other = {name: tuple(value.shape) for name, value in dummy_inputs(model.config, 1).items()}
        if other != sizes:
            raise UserError(f"{first.name} reads {sizes} and {model.name} reads {other}: time them apart")


def _onnx_file(model: Teacher, scratch: Path, label: str, notes: list[str]) -> Path | None:
    own = Path(model.source.location) / "onnx" / MODEL
    if own.is_file():
        return own
    try:
        return export_to_time(model.model, scratch)
    except UnsupportedError as error:
        notes.append(f"{label} was not timed in ONNX Runtime: {error}")
        return None
