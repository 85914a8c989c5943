"""One model type: is it certified, fused at half width, and exported?"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from benchmarks.zoo.tiny import class_of, tiny_configs
from compressor.anatomy import Kind, inspect_config
from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import all_outputs
from compressor.anatomy.trials import complete_inputs
from compressor.errors import UserError
from compressor.export.onnx import largest_differences
from compressor.fusion import fuse_models
from compressor.recipe import FusionOptions

Row = dict[str, Any]
_OPTIONS = FusionOptions(residual="barycentre", inner="transport")
#: Names of what is done with a type, in order.
STEPS = ("certify", "fuse")
#: What a refusal says of a config that does not run.
NOT_BUILT = "cannot be built and run"


def attempt(model_type: str, until: str, report: Callable[[Row], None]) -> None:
    """Take the steps up to one; report the row after every step, so that a time limit leaves what was found."""
    row: Row = {"class": class_of(model_type), "certified": False, "fused": False, "onnx": None, "message": ""}
    report(row)
    if row["class"] is None:
        row["message"] = "no Auto class"
        report(row)
        return
    try:
        for config in tiny_configs(model_type, row["class"]):
            row |= {"message": "", "failed": None}
            if not _take(row, config, until, report):
                # A tiny config that does not run says nothing of the model: the next one has other sizes.
                continue
            break
    except UserError as error:
        row["message"] = str(error)
    report(row)


def _take(row: Row, config: PretrainedConfig, until: str, report: Callable[[Row], None]) -> bool:
    """Take the steps; whether the config runs."""
    for step in (_certify, _fuse)[: STEPS.index(until) + 1]:
        try:
            row |= step(config)
        except UserError as error:
            row |= {"message": str(error), "failed": step.__name__.strip("_")}
            return NOT_BUILT not in str(error)
        except Exception as error:
            row |= {"message": _place(error), "failed": step.__name__.strip("_"), "traceback": True}
            return True
        finally:
            report(row)
    return True


def _certify(config: PretrainedConfig) -> Row:
    anatomy = inspect_config(config)
    attentions = [space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION]
    return {
        "certified": True, "error": anatomy.error, "proven": anatomy.proven, "attentions": len(attentions),
        "sensitivity": min(anatomy.sensitivity.values(), default=None), "pinned": dict(anatomy.pinned),
        "idle": list(anatomy.idle), "placed": [space.name for space in anatomy.residuals if space.placed],
    }  # fmt: skip


@torch.no_grad()
def _fuse(config: PretrainedConfig) -> Row:
    """Two random teachers at half width, and the student's files."""
    teachers: list[Any] = [(f"seed {seed}", random_model(config, seed).float()) for seed in (1, 2)]
    batches = [complete_inputs(teachers[0][1], teachers[0][1].config, 8, 12, seed) for seed in range(3)]
    # No pilots, which take most of a fusion's time and choose only between ways that all end in a student.
    placed = all(space.placed for space in inspect_config(config).residuals)
    width, options = (1.0, _OPTIONS.model_copy(update={"ffn": 0.5})) if placed else (0.5, _OPTIONS)
    student = fuse_models(teachers, width, batches, options).model
    answers = all_outputs(student, complete_inputs(student, student.config, 2, 12, 9))
    if not all(answer.isfinite().all() for answer in answers.values()):
        return {"message": "the student's answers are not finite", "failed": "fuse"}
    try:
        # One file of those of a decoder: a cache takes as long again.
        return {"fused": True, "onnx": max(largest_differences(student, cache=False).values())}
    except UserError as error:
        return {"fused": True, "message": str(error), "failed": "onnx"}
    except Exception as error:
        return {"fused": True, "message": _place(error), "failed": "onnx", "traceback": True}


def _place(error: Exception) -> str:
    """An exception and where in the package it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "compressor" in Path(frame.filename).parts]
    frame = (inside or frames)[-1]
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).stem}.{frame.name}, line {frame.lineno})"
