"""Presets: named recipe values, which flags and the recipe override."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressor.utils.registry import Registry


@dataclass(frozen=True)
class Preset:
    """Recipe values, nested as in a recipe, and their meaning."""

    meaning: str
    values: Mapping[str, Any]


PRESETS: Registry[Preset] = Registry("preset")
PRESETS.register("vanilla")(
    Preset(
        "the teachers' weights averaged one by one",
        {"width": 1.0, "fusion": {"residual": "identity", "refit": False}},
    )
)
PRESETS.register("slice")(
    Preset(
        "evenly spaced coordinates, heads and units kept",
        {"fusion": {"residual": "slice", "inner": "slice", "narrowing": "fewer-heads", "refit": False}},
    )
)
PRESETS.register("paper")(
    Preset(
        "Transformer Fusion with Optimal Transport, soft maps",
        {
            "width": 1.0,
            "calibration": {"samples": 256},
            "fusion": {
                "residual": "averaging",
                "refit": False,
                "alignment": {
                    "preparation": "standardised",
                    "solver": "sinkhorn",
                    "epsilon": 0.03,
                    "normalise": "max",
                    "heads": "across",
                },
            },
        },
    )
)


def preset(name: str) -> dict[str, Any]:
    """A copy of a preset's values; UserError if unknown."""
    return copy.deepcopy(dict(PRESETS.get(name).values))


def beneath(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Complete recipe values by a preset, without its width given an anchor or target.

    Raises:
        UserError: the preset is unknown.
    """
    lower = preset(name)
    fusion = values.get("fusion")
    if values.get("target") or (isinstance(fusion, Mapping) and fusion.get("anchor") is not None):
        lower.pop("width", None)
    return _merged(lower, values)


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
