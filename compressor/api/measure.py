"""`compressor.evaluate`, `bench` and `benchmark`: scores and latency of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.api.call import answered
from compressor.errors import UserError

if TYPE_CHECKING:
    from compressor.api.kinds import Data
    from compressor.api.models import ModelsLike
    from compressor.api.scores import Benchmark, Evaluation
    from compressor.api.sections import Columns
    from compressor.bench.rows import Row
    from compressor.recipe.fusion import ClassesName


@answered
def evaluate(
    models: ModelsLike, data: Data = None, *, ensemble: bool = False, classes: ClassesName = "same",
    device: str = "cpu", revision: str | None = None, trust_remote_code: bool = False,
    processor: Any = None, samples: int | None = 2000,
    batch_size: int = 128,
    eval_split: str | None = None, image_column: str | None = None, label_column: str | None = None,
    text_column: Columns = None, target_column: str | None = None, max_length: int | None = None,
    prompt: str | None = None,
) -> Evaluation:  # fmt: skip
    """Accuracy and F1, or perplexity, of models that read the same inputs and predict the same classes or tokens.

    Args:
        models: folders, built-in names, Hub ids, models or results; objects stay as they are.
        data: labelled samples as in `fuse`; built-in teachers bring their own.
        ensemble: add a row for the mean of the models' probabilities.
        classes: those that all answer where theirs are not the same by name, as in `fuse`; a model never answers a
            class that it lacks.
        device: any of torch.
        revision: branch, tag or commit of the Hub for models that have none in their names, `user/model@revision`.
        trust_remote_code: run code that lies in the models' folders (`auto_map`); read it first.
        processor: tokenizer or image processor for texts or images; the models' own if omitted.
        samples: the first that are measured; None for all.
        batch_size: samples per forward pass.
        eval_split, image_column, label_column, text_column, target_column, max_length, prompt: the recipe's section
            `data`.

    Raises:
        UserError: unusable models, data or device, no labels, or an ensemble of one.
    """
    return _evaluate(locals())


def _evaluate(arguments: Mapping[str, Any]) -> Evaluation:
    """Check everything that needs no network, then load, read and measure."""
    from compressor.api.keywords import keyword_names, recipe_sections
    from compressor.api.kinds import kind_of_data
    from compressor.api.models import check_names, fitted_together, list_models, load_models, names_of
    from compressor.api.samples import DataReader, check_source
    from compressor.api.scores import Evaluation
    from compressor.api.student import default_data
    from compressor.models.tasks.table import check_measurable
    from compressor.pipeline.evaluate import score_models
    from compressor.pipeline.scores.evaluation import short_names
    from compressor.pipeline.stages import StageReporter
    from compressor.pipeline.teachers import check_device
    from compressor.recipe import build_recipe
    from compressor.utils.devices import on_device

    models = list_models(arguments["models"], "evaluate: models", revision=arguments["revision"])
    if arguments["ensemble"] and len(models) < 2:
        raise UserError("evaluate: an ensemble is of two models or more: name another, or leave ensemble out")
    data = default_data(arguments["models"]) if arguments["data"] is None else arguments["data"]
    given = kind_of_data(data, "evaluate: data", arguments["samples"])
    sections = recipe_sections(arguments, "data", "evaluation")
    values: dict[str, Any] = {"teachers": names_of(models), "device": arguments["device"], **sections}
    values["fusion"] = {"classes": arguments["classes"]}
    recipe = build_recipe(values, where="evaluate", names=keyword_names(sections) | {"fusion.classes": "classes"})
    check_device(recipe.device)
    check_names(models)
    check_source(given)
    teachers = load_models(models, processor=arguments["processor"])
    for teacher in teachers:
        check_measurable(teacher.config, "evaluating", teacher.name)
    teachers = fitted_together(teachers, recipe.fusion.classes)
    stages = StageReporter()
    with stages("data", f"reading {given.name}"):
        batches = DataReader(given, teachers, recipe, "evaluate: data").evaluation()
    if not batches.labelled:
        raise UserError(
            f"evaluate: {batches.split.name} has no labels: name their column with label_column, or add 'labels' to "
            "every batch"
        )
    with on_device([teacher.model for teacher in teachers], recipe.device):
        return Evaluation(
            score_models(teachers, short_names(recipe.teachers), batches, stages, ensemble=arguments["ensemble"])
        )


@answered
def bench(
    models: ModelsLike, *, batch_size: int | Sequence[int] = 32, length: int | Sequence[int] = 128,
    backends: str | Sequence[str] = ("torch", "onnx"), seconds: float = 10.0, threads: int | None = None,
    device: str = "cpu", warmups: int = 10, trust_remote_code: bool = False,
) -> Benchmark:  # fmt: skip
    """Latency, peak memory, multiply–accumulates and size of models on random inputs, timed in turns.

    Args:
        models: folders, built-in names, Hub ids, ONNX files, models or results that read the same inputs.
        batch_size: samples per call, one or several.
        length: tokens of a text sample, one or several.
        backends: of `compressor.bench.backends`, such as "onnx-int8".
        seconds: least measuring time per model, backend and shape.
        threads: of every backend; all cores of this process if omitted.
        device: of torch.
        warmups: calls before measuring.
        trust_remote_code: run code that lies in the models' folders (`auto_map`); read it first.

    Raises:
        UserError: an unusable model or setting, or models that read different inputs.
    """
    from compressor.api.models import check_names, list_models, on_disk
    from compressor.api.scores import Benchmark
    from compressor.pipeline.bench import BenchSettings, bench_models

    listed = list_models(models, "bench: models")
    settings = BenchSettings(
        _counts("batch_size", batch_size), _counts("length", length),
        (backends,) if isinstance(backends, str) else tuple(backends), _positive("seconds", seconds),
        None if threads is None else _counts("threads", threads)[0], device, warmups,
    )  # fmt: skip
    check_names([name for name in listed if not (isinstance(name, str) and name.endswith(".onnx"))])
    with on_disk(listed) as names:
        return Benchmark(bench_models(names, settings))


@answered
def benchmark(
    models: ModelsLike, *, batch_size: int = 32, seconds: float = 10.0, threads: int | None = None, onnx: bool = True,
    length: int = 128,
) -> list[Row]:  # fmt: skip
    """The rows of `bench`, which has more, at one batch size and length.

    Args:
        onnx: time ONNX Runtime too.

    Raises:
        UserError: see `bench`.
    """
    backends = ("torch", "onnx") if onnx else ("torch",)
    result = bench(models, batch_size=batch_size, length=length, backends=backends, seconds=seconds, threads=threads)
    return list(result.rows)


def _counts(name: str, given: Any) -> tuple[int, ...]:
    counts = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    if not counts or any(type(count) is not int or count < 1 for count in counts):
        raise UserError(f"bench: {name}: a whole number above 0 is wanted, or a list of them, not {given!r}")
    return counts


def _positive(name: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < float("inf"):
        raise UserError(f"bench: {name}: a number above 0 is wanted, not {given!r}")
    return float(given)
