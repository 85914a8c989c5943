"""Runs with limited memory, whose teachers are read layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PretrainedConfig

from compressor.errors import UserError
from compressor.fusion.streamed_memory import MemoryPrediction, predict_memory
from compressor.fusion.streaming import Streaming, fixed_options
from compressor.models.resolve import resolve
from compressor.pipeline.teachers import plan_target
from compressor.recipe import Recipe
from compressor.utils.process_memory import return_freed_memory
from compressor.utils.tensor_store import TensorStore


def memory_of(recipe: Recipe, configs: Sequence[PretrainedConfig]) -> MemoryPrediction:
    """The memory of a recipe's fusion, layer by layer."""
    targets, _ = plan_target(configs, recipe.width, recipe.depth, recipe.fusion.narrowing, recipe.fusion.ratios)
    inner = fixed_options(recipe.fusion)[0].inner
    return predict_memory(configs, targets[0].config, inner, recipe.calibration.samples)


def check_streamed(recipe: Recipe, configs: Sequence[PretrainedConfig]) -> None:
    """Refuse what a fusion layer by layer cannot do, or do within its memory.

    Raises:
        UserError: names all flags to leave out or add.
    """
    limit = recipe.fusion.max_memory
    if limit is None or recipe.student is not None:
        return
    fixed_options(recipe.fusion)
    steps = {
        "--no-finetune": recipe.finetune.enabled,
        "--no-onnx": recipe.export.onnx,
        "--no-latency": recipe.bench.latency,
    }
    if missing := [flag for flag, there in steps.items() if there]:
        raise UserError(
            f"with --max-memory the student is only fused, evaluated and written: add {' '.join(missing)} "
            "(compress finetune, export and bench work on the written student)"
        )
    if recipe.device != "cpu":
        raise UserError("layers are read into the CPU's memory: leave out --device or --max-memory")
    if recipe.fusion.classes != "same":
        raise UserError("heads of other classes are made in memory: leave out --classes or --max-memory")
    check_folders(recipe.teachers)
    memory_of(recipe, configs).budget(limit)


def check_folders(names: Sequence[str]) -> None:
    """Refuse names whose files are not known to be here.

    Raises:
        UserError: names the first.
    """
    for name in names:
        if resolve(name).kind == "hub":
            raise UserError(f"{name} is no local folder: to read it layer by layer, download it first (hf download)")


def streaming_of(
    recipe: Recipe, configs: Sequence[PretrainedConfig], work: Callable[[], Path] | None = None
) -> Streaming | None:
    """How a recipe's models are read layer by layer; None if they are in memory.

    Args:
        work: makes the folder for finished layers; a temporary one if None.
    """
    if recipe.fusion.max_memory is None or recipe.student is not None:
        return None
    return_freed_memory()
    budget = memory_of(recipe, configs).budget(recipe.fusion.max_memory)
    return Streaming(TensorStore(budget), None if work is None else work())
