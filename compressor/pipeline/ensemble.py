"""Names to an ensemble that is known to fit together, refused before anything large is read where it does not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, inspect_config
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.target import Target, target_config
from compressor.models.builtin import BUILTIN, builtin_data
from compressor.models.compatible import check_compatible, check_compatible_configs
from compressor.models.inputs import task_of
from compressor.models.load import Teacher, load_teacher
from compressor.models.resolve import load_config, resolve
from compressor.pipeline.stages import Tell

#: What can be fused, finetuned and evaluated so far.
TASK = "image-classification"


def read_configs(names: Sequence[str]) -> list[PretrainedConfig]:
    """The configs of models that can be one ensemble; no weights are read.

    Raises:
        UserError: a name is unknown, a config is unreadable, or they do not fit together; the line says which.
    """
    named = [(name, load_config(name)) for name in names]
    check_compatible_configs(named)
    return [config for _, config in named]


def check_task(names: Sequence[str], configs: Sequence[PretrainedConfig], doing: str) -> None:
    """Refuse models of a task that cannot be worked on yet.

    Args:
        names: as the user wrote them.
        configs: theirs.
        doing: what is to be done with them, for the message, such as "fusing".

    Raises:
        UnsupportedError: one of them is no image classifier.
    """
    for name, config in zip(names, configs, strict=True):
        if (task := task_of(config)) != TASK:
            raise UnsupportedError(f"{doing} {task} models ({name}) is not supported yet: {TASK} models are")


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


def widest(configs: Sequence[PretrainedConfig]) -> tuple[PretrainedConfig, Anatomy]:
    """The config with the widest residual stream, the first of several, and its anatomy.

    Raises:
        UserError: an architecture is not understood.
    """
    anatomies = [inspect_config(config) for config in configs]
    best = max(range(len(configs)), key=lambda index: anatomies[index].residual.size)
    return configs[best], anatomies[best]


def plan_target(configs: Sequence[PretrainedConfig], width: float) -> Target:
    """The student's shape at a width; no weights are read.

    Raises:
        UserError: an architecture is not understood, or the width leaves nothing of it.
    """
    config, anatomy = widest(configs)
    return target_config(config, anatomy, width)


def load_ensemble(names: Sequence[str], tell: Tell | None = None) -> list[Teacher]:
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
