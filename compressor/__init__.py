"""Fuse an ensemble of wide transformers into one narrow one by optimal transport.

The functions below are the stable Python interface.  They import heavy libraries when called, and raise
`compressor.errors.UserError` for bad input.

Importing the package turns off the telemetry of libraries imported later (`compressor.utils.telemetry`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.utils.telemetry import disable_telemetry
from compressor.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from compressor.anatomy import Anatomy
    from compressor.bench.rows import Row
    from compressor.distillation.checks import TrainingSamples
    from compressor.distillation.distill import FinetuneReport
    from compressor.export.reports import ExportReport
    from compressor.fusion import FusionResult
    from compressor.layer_maps import LayerMap

__all__ = ["__version__", "benchmark", "distill", "export_onnx", "fuse", "inspect"]

disable_telemetry()


def fuse(
    teachers: Sequence[str | PreTrainedModel],
    width: float | None = None,
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
    *,
    depth: float | int | None = None,
    seed: int = 0,
    holdout: float = 0.125,
    anchor: str | PreTrainedModel | None = None,
    preset: str | None = None,
    progress: Callable[[float, str], None] | None = None,
    **options: Any,
) -> FusionResult:
    """Fuse teachers into one student of `width` times the residual width of the widest.

    Args:
        teachers: folders, built-in names, Hub ids or models, of one model type; not changed.
        width: share of the residual width, in (0, 1]; if omitted that of the preset, or 0.5.
        calibration: unlabelled batches of model inputs; None aligns the weights alone, which costs accuracy.
        depth: share of the deepest teacher's layers, or a number of layers; None for all.
        seed: of every random choice.
        holdout: share of the batches held out to choose map and ridge.
        anchor: a trained narrow model that gives the student its shape and coordinates.
        preset: name in `compressor.presets`; `options` replace its values.
        progress: called with fraction and message.
        **options: fields of `compressor.recipe.FusionOptions`, such as `refit=False`.

    Returns:
        The student as `.model`, its shape as `.target`, choices and couplings as `.report`.

    Raises:
        UserError: unusable names, options or width, or teachers that do not fit together.
    """
    from compressor.fusion import fuse_models
    from compressor.models.compatibility import check_compatible_configs
    from compressor.recipe import build_recipe

    named = _named(teachers)
    check_compatible_configs([(name, model.config) for name, model in named])
    values: dict[str, Any] = {"preset": preset, "teachers": [name for name, _ in named], "depth": depth, "seed": seed}
    values |= {"fusion": options, "calibration": {"holdout": holdout}}
    recipe = build_recipe(values if width is None else {**values, "width": width}, where="fuse")
    return fuse_models(
        named,
        recipe.width,
        calibration,
        recipe.fusion,
        holdout=holdout,
        seed=seed,
        anchor=None if anchor is None else _named([anchor])[0],
        progress=progress,
        **({} if depth is None else {"depth": depth}),
    )


def inspect(model: str | PreTrainedModel | PretrainedConfig) -> Anatomy:
    """The certified anatomy of an architecture: `.spaces`, `.axes` and `.errors`; no weights are read.

    Raises:
        UserError: the name or the architecture is unknown.
    """
    from transformers import PretrainedConfig

    from compressor.anatomy import inspect_config
    from compressor.models.inputs import name_architecture
    from compressor.models.resolve import load_config
    from compressor.models.ties import settled

    if isinstance(model, str):
        return inspect_config(load_config(model))
    if isinstance(model, PretrainedConfig):
        return inspect_config(model)
    name_architecture(model)
    return inspect_config(settled(model).config)


def distill(
    student: PreTrainedModel,
    teachers: Sequence[str | PreTrainedModel],
    train: TrainingSamples,
    *,
    work_dir: str | Path,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    resume: bool = False,
    device: str = "cpu",
    progress: Callable[[int, int, float], None] | None = None,
    passages: Sequence[LayerMap] = (),
    **options: Any,
) -> FinetuneReport:
    """Train a student in place on its teachers' mean prediction.

    Args:
        teachers: folders, built-in names, Hub ids or models; may be none if `distil_weight` is 0.
        train: dicts of model inputs without a batch dimension, texts of any length, with or without labels.
        work_dir: of the checkpoints.
        weights: one per teacher; equal if omitted.
        seed: of the order of the samples.
        resume: continue from the newest checkpoint in `work_dir`.
        device: "cpu", or the first GPU as "cuda".
        progress: called with the step, the number of steps and the loss.
        passages: `FusionResult.passages` of the student's fusion, for the loss `hidden`.
        **options: fields of `compressor.recipe.FinetuneOptions`, such as `steps=500`.

    Raises:
        UserError: an unusable option or data, or a loss that is not finite.
    """
    from pathlib import Path

    from compressor.distillation.distill import train_student
    from compressor.distillation.objective import FeatureTargets
    from compressor.errors import UserError
    from compressor.layer_maps import attention_pairs_of
    from compressor.recipe import build_recipe

    (_, student), *named = _named([student, *teachers])
    names = [name for name, _ in named] or ["student"]  # A recipe needs a teacher, labels alone need none.
    recipe = build_recipe({"teachers": names, "finetune": options, "seed": seed}, where="distill")
    if not named and recipe.finetune.asks_teachers:
        raise UserError("distill: there are no teachers: name one, or give distil_weight=0 to learn labels alone")
    models = [model for _, model in named]
    configs = [model.config for model in models]
    pairs = attention_pairs_of(student.config, configs) if "relations" in recipe.finetune.losses else ()
    return train_student(
        student,
        models,
        [1.0] * len(named) if weights is None else list(weights),
        train,
        recipe.finetune,
        seed=seed,
        work_dir=Path(work_dir),
        resume=resume,
        device=device,
        progress=progress,
        targets=FeatureTargets(passages, pairs),
    )


def benchmark(
    models: Sequence[str],
    *,
    batch_size: int = 32,
    seconds: float = 10.0,
    threads: int | None = None,
    onnx: bool = True,
    length: int = 128,
) -> list[Row]:
    """Latency in torch and ONNX Runtime, multiply–accumulates and size of models, on random inputs.

    Args:
        models: folders, built-in names or Hub ids that read the same inputs.
        batch_size: samples per call.
        seconds: least measuring time per model and backend.
        threads: of both backends; all cores of this process if omitted.
        onnx: time ONNX Runtime too.
        length: tokens of a text sample.

    Raises:
        UserError: a model cannot be loaded, or the models read different inputs.
    """
    from compressor.bench.rows import from_json
    from compressor.pipeline.bench import DEFAULT_BACKENDS, BenchSettings, bench_models

    backends = DEFAULT_BACKENDS if onnx else ("torch",)
    result = bench_models(models, BenchSettings((batch_size,), (length,), backends, seconds, threads))
    return from_json(result["table"])


def export_onnx(
    model: str | PreTrainedModel,
    folder: str | Path,
    *,
    cache: bool = True,
    tolerance: float = 1e-4,
    seed: int = 0,
    opset: int | None = None,
) -> ExportReport:
    """Write a model's ONNX files to `folder`/onnx and compare them with torch over several batch sizes.

    Args:
        model: a folder, a built-in name, a Hub id or a model.
        cache: also write files with past keys and values for a model that generates.
        tolerance: largest difference, relative to the largest value of an output.
        seed: of the random inputs.
        opset: version of ONNX's operations; torch's own if omitted.

    Raises:
        ParityError: a file differs from torch by more than `tolerance`; nothing is written.
        UserError: the model cannot be loaded or exported.
    """
    from compressor.export.onnx import write_onnx as export

    return export(_named([model])[0][1], folder, cache=cache, tolerance=tolerance, seed=seed, opset=opset)


def _named(models: Sequence[str | PreTrainedModel]) -> list[tuple[str, PreTrainedModel]]:
    from compressor.models.inputs import name_architecture
    from compressor.models.load import load_teacher

    for model in models:
        if not isinstance(model, str):
            name_architecture(model)
    return [
        (model, load_teacher(model).model) if isinstance(model, str) else (f"model {index}", model)
        for index, model in enumerate(models)
    ]
