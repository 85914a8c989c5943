"""JSON without NaN and infinity, which Python would write."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from compressor.errors import UserError


def json_text(values: Any, *, indent: int | None = None) -> str:
    """One JSON value as text.

    Raises:
        UserError: NaN or infinity; says where.
    """
    try:
        return json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        place = _first_not_finite(values)
        if place is None:
            raise
        raise UserError(
            f"{place[0]} came out as {place[1]}: the models' weights or answers are far too large or broken"
        ) from None


def finite_or_none(value: Any) -> Any:
    """None for NaN and infinity, else the value."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first_not_finite(values: Any, place: str = "") -> tuple[str, float] | None:
    """Path, such as "table.0.kl", and value of the first NaN or infinity."""
    if isinstance(values, float):
        return None if math.isfinite(values) else (place or "a figure", values)
    parts: Any = ()
    if isinstance(values, Mapping):
        parts = values.items()
    elif isinstance(values, list | tuple):
        parts = enumerate(values)
    return next((at for key, part in parts if (at := _first_not_finite(part, f"{place}.{key}".lstrip(".")))), None)
