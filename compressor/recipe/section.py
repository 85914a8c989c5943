"""Base of the schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen part of a recipe that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def number_with_unit(value: Any, units: Mapping[str, float], expected: str) -> Any:
    """A text such as "6M" as a number; other values as they are.

    Args:
        units: factors by lower-case names; "" for none.

    Raises:
        ValueError: another text.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*)\s*", value)
    if match is None or match[2].lower() not in units or match[1].count(".") > 1:
        raise ValueError(f"this should be {expected}")
    return float(match[1]) * units[match[2].lower()]
