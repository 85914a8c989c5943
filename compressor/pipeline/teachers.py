"""Teachers by name: configs, device, student's shape, models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, inspect_config
from compressor.errors import UserError
from compressor.fusion.shape.spec import StudentSpec, depth_of, student_specs, widest_teacher
from compressor.models.builtin import BUILTIN, builtin_data
from compressor.models.compatibility import check_compatible, check_compatible_configs
from compressor.models.inherited.class_heads import with_common_classes
from compressor.models.load import load_teacher
from compressor.models.resolve import load_config, resolve
from compressor.models.tasks.classes import teachers_choice
from compressor.models.teacher import Teacher
from compressor.models.ties import common_ties
from compressor.pipeline.stages import OnStageProgress
from compressor.recipe.fusion import BY_WIDTH, ClassesName, Ratios


def read_configs(
    names: Sequence[str],
    notes: list[str] | None = None,
    classes: ClassesName = "same",
    *,
    student: str | None = None,
) -> list[PretrainedConfig]:
    """Configs of models that fit together, with their common classes; the student's comes last.

    Args:
        notes: gets lines on weights that are not tied as a config says.
        classes: see `compressor.models.tasks.classes.match_classes`.
        student: a model that keeps its classes.

    Raises:
        UserError: an unusable name or config, or two that do not fit.
    """
    named = [(name, load_config(name, notes)) for name in names]
    given = None if student is None else (student, load_config(student, notes))
    return check_compatible_configs(named, classes, student=given)


def check_device(device: str) -> None:
    """Refuse a device that torch cannot use.

    Raises:
        UserError: it is unknown or missing.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no device '{device}' here: {reason}") from None


def plan_target(
    configs: Sequence[PretrainedConfig],
    width: float,
    depth: float | int | None = None,
    narrowing: str = "auto",
    ratios: Ratios = BY_WIDTH,
) -> tuple[list[StudentSpec], Anatomy]:
    """The student's possible shapes, best first, and their anatomy, from configs alone.

    Args:
        configs: the widest gives the student's.
        width: share of the widest residual width, in (0, 1].
        depth: share of the deepest teacher's layers, or their number.
        narrowing, ratios: see `FusionOptions`.

    Raises:
        UserError: an unknown architecture, or too small a width or depth.
    """
    lead, anatomy, depths = shape_of(configs)
    return student_specs(lead, anatomy, width, depth, depths, narrowing, configs, ratios=ratios), anatomy


def shape_of(configs: Sequence[PretrainedConfig]) -> tuple[PretrainedConfig, Anatomy, tuple[int, ...]]:
    """The widest teacher's config and anatomy, and the deepest's layers per stack.

    Raises:
        UserError: an unknown architecture.
    """
    configs = common_ties(configs)
    anatomies = [inspect_config(config) for config in configs]
    widest = widest_teacher(configs, anatomies)
    stacks = zip(*(anatomy.stacks for anatomy in anatomies), strict=True)
    return configs[widest], anatomies[widest], tuple(max(map(depth_of, stack)) for stack in stacks)


def depth_option(depth: float | int | None) -> dict[str, Any]:
    """The fusion's argument `depth`, if any."""
    return {} if depth is None else {"depth": depth}


def load_ensemble(
    names: Sequence[str],
    on_progress: OnStageProgress | None = None,
    classes: ClassesName = "same",
    *,
    student: Teacher | None = None,
    device: str = "cpu",
    streamed: bool = False,
) -> list[Teacher]:
    """Load models that fit together, with their common classes; train missing built-in ones.

    Args:
        classes: see `compressor.models.tasks.classes.match_classes`.
        student: a model that keeps its classes.
        streamed: weights are read layer by layer when they are needed.

    Raises:
        UserError: a model cannot be loaded or does not fit.
    """
    teachers = []
    for name in names:
        if on_progress:
            on_progress(None, f"loading {name}")
        teachers.append(load_teacher(name, device=device, progress=on_progress, streamed=streamed))
    check_compatible(teachers, teachers_choice(classes, None if student is None else student.config))
    return with_common_classes(teachers, classes, student)


def common_data(names: Sequence[str]) -> str | None:
    """Data of built-in teachers, if all are."""
    if any(name not in BUILTIN or resolve(name).kind != "builtin" for name in names):
        return None
    return builtin_data(names[0])
