"""Presets: baselines and published ways of fusing, each a name for values of the recipe.

A preset lies beneath whatever else is said: flags, and a recipe's own keys, replace its values one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressor.utils.registry import Registry


@dataclass(frozen=True)
class Preset:
    """A preset.

    Attributes:
        meaning: in a few words.
        values: nested as in a recipe.
    """

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
    """The values that a preset stands for, nested as in a recipe.

    Raises:
        UserError: there is no preset of that name; the line lists the known ones.
    """
    return copy.deepcopy(dict(PRESETS.get(name).values))


def beneath(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Nested values with those of a preset wherever they say nothing.

    A preset's width is that of students that have their teachers' shape, so it gives way to an anchor or a target too.

    Raises:
        UserError: there is no preset of that name; the line lists the known ones.
    """
    found = preset(name)
    fusion = values.get("fusion")
    if values.get("target") or (isinstance(fusion, Mapping) and fusion.get("anchor") is not None):
        found.pop("width", None)
    return _merged(found, values)


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
