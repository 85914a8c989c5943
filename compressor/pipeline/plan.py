"""Shapes and costs of a student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from transformers import PretrainedConfig

from compressor.anatomy import inspect_config
from compressor.bench.size import count_macs, count_parameters
from compressor.fusion.shape.cost import relative_cost
from compressor.fusion.shape.servers import runs_fast_in
from compressor.fusion.streamed_memory import predict_memory
from compressor.fusion.streamed_work import MachineRates, predict_work
from compressor.fusion.streaming import FIXED
from compressor.models.meta import meta_model
from compressor.pipeline.budget import pick_width
from compressor.pipeline.scores.evaluation import short_names
from compressor.pipeline.stages import OnStage, StageReporter
from compressor.pipeline.teachers import plan_target, read_configs
from compressor.pipeline.timing import sample_length
from compressor.recipe import CalibrationOptions, TargetOptions, build_recipe
from compressor.recipe.fusion import BY_WIDTH, ClassesName, Ratios
from compressor.utils.out_of_memory import available_memory

#: Bytes of a stored weight.
_FLOAT32 = 4


def plan_student(
    names: Sequence[str],
    width: float,
    *,
    depth: float | int | None = None,
    narrowing: str = "auto",
    ratios: Ratios = BY_WIDTH,
    classes: ClassesName = "same",
    length: int = 128,
    budget: TargetOptions | None = None,
    threads: int | None = None,
    progress: OnStage | None = None,
) -> dict[str, Any]:
    """Shapes, parameters and multiply–accumulates before and after, from configs alone.

    Args:
        names: of teachers that fit together, of any task.
        width, depth, narrowing, ratios: see `plan_target`.
        classes: see `compressor.models.tasks.classes.match_classes`.
        length: tokens, at most the teachers' limit.
        budget: picks the width if it has a target.
        threads: of a measured latency; None for torch's.

    Returns:
        JSON-ready: teachers, student, target as in a report, "others" (shapes that held-out samples may prefer),
        "relative_times" (of target and others, the fastest is 1; from their sizes), "runs_fast_in" (see there),
        "length", "memory" (of a fusion and this process), "budget" (see `Budget`), "notes" on the teachers.

    Raises:
        UserError: an unusable name or width, or an unknown architecture.
    """
    flags = {"width": "--width", "depth": "--depth"}
    grid = "auto" if ratios.grid else "none"
    fusion = {"narrowing": narrowing, "classes": classes, **ratios._asdict(), "grid": grid}
    flags |= {f"fusion.{name}": f"--{name}" for name in fusion}
    values = {"teachers": list(names), "width": width, "depth": depth, "fusion": fusion}
    build_recipe(values, where="", names=flags)
    notes: list[str] = []
    configs = read_configs(names, notes, classes)
    picked = None
    if budget is not None and budget.asked:
        with StageReporter(progress)("budget", "picking the width") as progress_in_stage:
            picked = pick_width(
                configs, budget, depth=depth, length=length, thread_count=threads, on_progress=progress_in_stage
            )
        width = picked.width
    specs, anatomy = plan_target(configs, width, depth, narrowing, ratios)
    target, *others = specs
    tokens = sample_length(target.config, length) or _patches(target.config)
    return {
        "teachers": [
            {"name": name, **_cost(config, length)} for name, config in zip(short_names(names), configs, strict=True)
        ],
        "student": {"name": "student", **_cost(target.config, length)},
        "target": target.summary(),
        "others": [other.summary() for other in others],
        "relative_times": _relative_times([spec.config for spec in specs], length),
        "runs_fast_in": runs_fast_in(inspect_config(target.config), target.config),
        "budget": None if picked is None else picked.report,
        "certificate": anatomy.error,
        "length": sample_length(target.config, length),
        "memory": _memory(configs, target.config, tokens),
        "notes": notes,
    }


def _relative_times(configs: Sequence[PretrainedConfig], length: int) -> list[float]:
    """Times of shapes, of the fastest one's; [] for one shape, or if the tokens of a sample are not known."""
    tokens = sample_length(configs[0], length) or _patches(configs[0])
    if len(configs) < 2 or tokens is None:
        return []
    costs = [relative_cost(meta_model(config), inspect_config(config), tokens) for config in configs]
    return [round(cost / min(costs), 4) for cost in costs]


def _patches(config: PretrainedConfig) -> int | None:
    """Tokens of an image of square patches, where the config says how many."""
    image, patch = (getattr(config, name, None) for name in ("image_size", "patch_size"))
    if not isinstance(image, int) or not isinstance(patch, int) or patch < 1:
        return None
    return (image // patch) ** 2 + 1


def _memory(configs: Sequence[PretrainedConfig], student: PretrainedConfig, tokens: int | None) -> dict[str, Any]:
    """Least bytes of a fusion (float32 teachers, their canonical form, student), and this process's memory.

    Of a fusion layer by layer ("streamed"): bytes of its stages without hidden states, the most of these, bytes of
    hidden states per token, of which those beyond a limit lie on disk, and of the student's layers there; with as many
    samples as a run calibrates by, of so many tokens, the tokens used, bytes of hidden states, and seconds.
    """
    least = _FLOAT32 * (2 * sum(map(count_parameters, configs)) + count_parameters(student))
    predicted = predict_memory(configs, student, FIXED["inner"], CalibrationOptions().samples)
    work = predict_work(configs, student, FIXED["inner"])
    streamed = {**asdict(predicted), "fixed": predicted.fixed, "student": work.student_bytes}
    if tokens is not None:
        given = tokens * CalibrationOptions().samples
        used = work.tokens(given)
        seconds = work.seconds(given, MachineRates.measured())
        streamed |= {"tokens": used, "hidden": used * predicted.per_token, "seconds": round(seconds, 1)}
    return {"least": least, "streamed": streamed, **asdict(available_memory())}


def _cost(config: PretrainedConfig, length: int) -> dict[str, int]:
    parameters = count_parameters(config)
    return {"parameters": parameters, "macs": count_macs(config, length=length), "bytes": _FLOAT32 * parameters}
