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
from compressor.models.load import Teacher, check_compatible, load_teacher
from compressor.models.tasks import check_measurable
from compressor.pipeline.ensemble import check_device, common_data, read_configs
from compressor.pipeline.environment import environment
from compressor.pipeline.measure import Contender, latency_report, text_length, time_contenders
from compressor.pipeline.prove import export_to_time
from compressor.pipeline.samples import open_evaluation
from compressor.pipeline.space import told_when_full
from compressor.pipeline.stages import Progress, Stages
from compressor.pipeline.table import Subject, make_rows, short_names, stored_bytes
from compressor.recipe import Recipe


def evaluate(recipe: Recipe, *, progress: Progress | None = None) -> dict[str, Any]:
    """Measure the recipe's teachers, which may be any models of one task that answer in the same terms.

    Returns:
        JSON-ready: rows {name, accuracy, accuracy_error, f1, perplexity, samples, labelled, parameters, fingerprint},
        task, data, notes, seconds.

    Raises:
        UserError: names, data or device cannot be used, or the data has no labels.
    """
    stages = Stages(progress)
    check_device(recipe.device)
    with stages("load", "loading") as tell:
        for name, config in zip(recipe.teachers, read_configs(recipe.teachers), strict=True):
            task = check_measurable(config, "evaluating", name)
        source = recipe.data.source or common_data(recipe.teachers)
        if source is None:
            raise UserError(f"evaluating needs {'labelled data' if task.columns else 'data'}: name some with --data")
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})})
        models = [load_teacher(name, device=recipe.device, progress=tell) for name in recipe.teachers]
        check_compatible(models)
    with stages("data", f"reading {source}"), told_when_full("to the cache of datasets"):
        batches = open_evaluation(recipe, models[0].processor, models[0].config)
    if not batches.labelled:
        raise UserError(f"{batches.split.name} has no labels to evaluate with: name their column with --label-column")
    with stages("evaluate", "evaluating"):
        scores = measure([model.model for model in models], batches)
    rows = []
    for name, model, found in zip(short_names(recipe.teachers), models, scores, strict=True):
        rows.append(
            {
                "name": name,
                "accuracy": found.accuracy,
                "accuracy_error": found.accuracy_error,
                "f1": found.f1,
                "perplexity": found.perplexity,
                "samples": found.samples,
                "labelled": found.labelled,
                "parameters": count_parameters(model.model),
                "fingerprint": model.fingerprint,
            }
        )
    notes = [note for model in models for note in model.notes]
    return {
        "rows": rows,
        "task": task.name,
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
