"""The student before its finetune."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from compressor.ensemble.stacking import Mixture
from compressor.errors import FusionWarning
from compressor.fusion import FusionResult, fuse_models
from compressor.fusion.calibration.processes import ALONE, Processes
from compressor.fusion.shape.servers import runs_fast_in
from compressor.fusion.streaming import Streaming, fixed_options
from compressor.layer_maps import LayerMap, load_layer_maps
from compressor.models.load import load_teacher
from compressor.models.teacher import Teacher
from compressor.pipeline.calibration_checks import check_calibration
from compressor.pipeline.data_splits import RunData
from compressor.pipeline.stages import StageReporter
from compressor.pipeline.teachers import depth_option
from compressor.recipe import Recipe
from compressor.utils.devices import moved_batches, on_device
from compressor.utils.strict_json import finite_or_none

#: The warning of a fusion without data.
NO_DATA = (
    "no data: the weights alone were aligned, with no refit, finetune or accuracy; expect far less of this student "
    "than of one made with a few hundred unlabelled samples (--data)"
)


@dataclass(frozen=True)
class InitialStudent:
    """A student and its part of the report.

    Attributes:
        model: on the CPU; finetuned in place.
        report: target, fusion, warnings, JSON-ready.
        layer_maps: from the teachers' residual streams, if known.
    """

    model: PreTrainedModel
    report: Mapping[str, Any]
    layer_maps: tuple[LayerMap, ...] = ()


def initial_student(
    recipe: Recipe,
    teachers: Sequence[Teacher],
    given: Teacher | None,
    data: RunData | None,
    mixture: Mixture,
    stages: StageReporter,
    streaming: Streaming | None = None,
    precision: torch.dtype | None = None,
    processes: Processes = ALONE,
) -> InitialStudent:
    """Fuse the teachers, unless a student is given.

    Args:
        streaming: how models are read layer by layer.
        precision: of the student; the loaded teachers' if omitted.
        processes: those that share the calibration samples; the first one's student counts.

    Raises:
        UserError: see `compressor.fusion.fuse_models`.
    """
    if given is not None:
        report: dict[str, Any] = {"target": None, "fusion": None, "warnings": [], "mixture": mixture.report()}
        return InitialStudent(given.model, report, layer_maps_between(given, teachers))
    anchor = None
    if recipe.fusion.anchor is not None:
        with stages("load", "loading the anchor"):
            anchor = (recipe.fusion.anchor, _anchor(recipe.fusion.anchor, teachers))
    with stages("fuse", "fusing") as progress, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FusionWarning)
        models = [teacher.model for teacher in teachers]
        with on_device(models if anchor is None else [*models, anchor[1]], recipe.device):
            result = fuse_models(
                [(teacher.name, teacher.model) for teacher in teachers],
                recipe.width,
                None if data is None else moved_batches(data.calibration, recipe.device),
                recipe.fusion,
                holdout=recipe.calibration.holdout,
                seed=recipe.seed,
                anchor=anchor,
                mixture=mixture,
                progress=progress,
                streaming=streaming,
                precision=precision,
                processes=processes,
                **depth_option(recipe.depth),
            )
        result.model.to("cpu")  # type: ignore[arg-type]
    lines = [str(warning.message) for warning in caught if issubclass(warning.category, FusionWarning)]
    lines += [NO_DATA] if data is None else check_calibration(data, teachers)
    lines += [] if streaming is None else list(fixed_options(recipe.fusion)[1])
    lines += _left_out([t.name for t, weight in zip(teachers, mixture.weights, strict=True) if not weight])
    return student_of_fusion(result, lines)


def student_of_fusion(result: FusionResult, warnings: Sequence[str]) -> InitialStudent:
    """The student of a fusion, with lines on it."""
    report = {
        "target": {**result.target.summary(), "runs_fast_in": runs_fast_in(result.anatomy, result.model.config)},
        "fusion": _fusion_report(result.report),
        "warnings": list(warnings),
        "mixture": result.report.mixture,
    }
    return InitialStudent(result.model, report, result.passages)


def _left_out(names: Sequence[str]) -> list[str]:
    """A line on teachers without weight."""
    return [f"{', '.join(names)}: no weight in the ensemble (--weights equal asks all alike)"] if names else []


def layer_maps_between(student: Teacher, teachers: Sequence[Teacher]) -> tuple[LayerMap, ...]:
    """Layer maps in a student's folder, if fused from these teachers.

    Raises:
        UserError: they are unreadable.
    """
    folder = student.source.location
    return load_layer_maps(folder, [teacher.fingerprint for teacher in teachers]) if Path(folder).is_dir() else ()


def _anchor(name: str, teachers: Sequence[Teacher]) -> PreTrainedModel:
    """The anchor's model; a teacher's own, so that the fusion sees that it takes part."""
    return next((teacher.model for teacher in teachers if teacher.name == name), None) or load_teacher(name).model


def _fusion_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """The fusion's report with choices and candidates apart."""
    choices = {key: value for key, value in report["choice"].items() if key != "candidates"}
    # A broken candidate may score NaN.
    candidates = [
        {key: finite_or_none(value) for key, value in candidate.items()}
        for candidate in report["choice"].get("candidates", [])
    ]
    rest = {key: value for key, value in report.items() if key not in ("choice", "mixture")}
    return {"choices": choices, "candidates": candidates, **rest}
