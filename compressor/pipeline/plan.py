"""What a width would give, before a single weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from compressor.bench.flops import count_macs
from compressor.bench.size import count_parameters
from compressor.fusion.target import target_config
from compressor.models.inputs import is_image_config
from compressor.pipeline.ensemble import read_configs, widest
from compressor.pipeline.table import short_names
from compressor.recipe import build

#: Bytes of a weight as it is stored.
_FLOAT32 = 4


def plan(names: Sequence[str], width: float, *, length: int = 128) -> dict[str, Any]:
    """Shapes, parameters and multiply–accumulates before and after.

    Args:
        names: teachers that are one ensemble, of any task.
        width: share of the widest teacher's residual width, in (0, 1].
        length: tokens of a text sample.

    Returns:
        JSON-ready: teachers, student, target as in a report, and "length" for text.

    Raises:
        UserError: a name or the width cannot be used, or an architecture is not understood.
    """
    build({"teachers": list(names), "width": width}, where="", names={"width": "--width"})
    configs = read_configs(names)
    config, anatomy = widest(configs)
    target = target_config(config, anatomy, width)
    return {
        "teachers": [
            {"name": name, **_cost(config, length)} for name, config in zip(short_names(names), configs, strict=True)
        ],
        "student": {"name": "student", **_cost(target.config, length)},
        "target": target.summary(),
        "certificate": anatomy.error,
        "length": None if is_image_config(config) else length,
    }


def _cost(config: PretrainedConfig, length: int) -> dict[str, int]:
    parameters = count_parameters(config)
    return {"parameters": parameters, "macs": count_macs(config, length=length), "bytes": _FLOAT32 * parameters}
