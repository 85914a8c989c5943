"""Names to an ensemble that is known to fit together, refused before anything large is read where it does not."""

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
from compressor.models.load import load_teacher
from compressor.models.resolve import load_config, resolve
from compressor.models.teacher import Teacher
from compressor.pipeline.stages import OnStageProgress


def read_configs(names: Sequence[str]) -> list[PretrainedConfig]:
    """The configs of models that can be one ensemble; no weights are read.

    Raises:
        UserError: a name is unknown, a config is unreadable, or they do not fit together; the line says which.
    """
    named = [(name, load_config(name)) for name in names]
    check_compatible_configs(named)
    return [config for _, config in named]


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or that is not there.

    Raises:
        UserError: it is not usable; the line says why.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no device '{device}' here: {reason}") from None


def plan_target(
    configs: Sequence[PretrainedConfig], width: float, depth: float | int | None = None, narrowing: str = "auto"
) -> tuple[list[StudentSpec], Anatomy]:
    """The student's shapes at a width and depth, and the anatomy they come from; no weights are read.

    Among several, held-out calibration data will choose; the first is the more promising.

    Args:
        configs: the teachers'; the widest gives the student's config.
        width: share of the widest teacher's residual width.
        depth: share of the deepest teacher's layers, or their number; None for all of them.
        narrowing: how attention becomes narrower (`FusionOptions.narrowing`).

    Raises:
        UserError: an architecture is not understood, or the width or depth leaves nothing of it.
    """
    lead, anatomy, depths = shape_of(configs)
    return student_specs(lead, anatomy, width, depth, depths, narrowing, configs), anatomy


def shape_of(configs: Sequence[PretrainedConfig]) -> tuple[PretrainedConfig, Anatomy, tuple[int, ...]]:
    """What a student's shape is taken from: the widest teacher's config and anatomy, and the deepest one's layers.

    Raises:
        UserError: an architecture is not understood.
    """
    anatomies = [inspect_config(config) for config in configs]
    best = widest_teacher(configs, anatomies)
    stacks = zip(*(anatomy.stacks for anatomy in anatomies), strict=True)
    return configs[best], anatomies[best], tuple(max(map(depth_of, own)) for own in stacks)


def depth_option(depth: float | int | None) -> dict[str, Any]:
    """The argument `depth` of the fusion, if one is asked for."""
    return {} if depth is None else {"depth": depth}


def load_ensemble(names: Sequence[str], tell: OnStageProgress | None = None) -> list[Teacher]:
    """Load models that are one ensemble, on the CPU; built-in teachers are trained first where they are not cached.

    Raises:
        UserError: one of them cannot be loaded, or they do not fit together.
    """
    loaded = []
    for name in names:
        if tell:
            tell(None, f"loading {name}")
        loaded.append(load_teacher(name, progress=tell))
    check_compatible(loaded)
    return loaded


def common_data(names: Sequence[str]) -> str | None:
    """The data that built-in teachers bring; None if one of the models is not built in."""
    if any(name not in BUILTIN or resolve(name).kind != "builtin" for name in names):
        return None
    return builtin_data(names[0])
