"""Widths of single parts of a composite model: of a vision tower, of a decoder."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PretrainedConfig

from compressor.errors import UserError
from compressor.models.configs.fields import parts_of
from compressor.recipe.fusion import Ratios


def part_widths(config: PretrainedConfig, ratios: Ratios) -> dict[str, float]:
    """{path of a part of the config: its width}.

    Raises:
        UserError: the config has no part of that name; says which it has.
    """
    paths = [prefix.rstrip(".") for prefix, _ in parts_of(config) if prefix]
    named = {name: path for path in reversed(paths) for name in (_short(path), path)}
    for name in ratios.part:
        if name not in named:
            known = ", ".join(map(_short, paths))
            has = f"its parts are {known}" if known else "it has no parts"
            raise UserError(f"this {config.model_type} has no part {name!r}: {has}")
    return {named[name]: share for name, share in ratios.part.items()}


def width_of(field: str, width: float, parts: Mapping[str, float]) -> float:
    """The width of what a field sizes: that of the innermost part with one of its own."""
    inside = [path for path in parts if field.startswith(f"{path}.")]
    return parts[max(inside, key=len)] if inside else width


def _short(path: str) -> str:
    """vision_config: vision."""
    return path.rpartition(".")[2].removesuffix("_config")
