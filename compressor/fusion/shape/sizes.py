"""Sizes of attention and residual streams, and the config fields that give them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Space
from compressor.errors import UserError
from compressor.models.configs.fields import part_of, read_field

#: Free residual widths are rounded to this multiple, for the hardware.
WIDTH_MULTIPLE = 8
#: Residual streams below this width are toys and not rounded.
TOY_WIDTH = 64
#: From `GRID_FROM` up, sizes are rounded to multiples of `GRID`, for tiles of matrix products; heads of `GRID` and more
#: to sizes that kernels of attention are made for.
GRID, GRID_FROM = 64, 512
GRID_HEADS = (32, 64, 96, 128)
#: Heads that are quotients are at least multiples of this in such models.
HEAD_MULTIPLE = 8
#: Rotary positions whose frequencies follow from base and channels alone.
SCALABLE_ROTARY = ("default", "linear", "llama3", "yarn")


class Narrowing(StrEnum):
    """How attention becomes narrower."""

    FEWER = "fewer-heads"
    SMALLER = "smaller-heads"
    ALL = "all-heads"


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of a student's attention and residual stream.

    Attributes:
        narrowing: a `Narrowing`, if any.
        hidden: the residual width.
        rotary_bases: {part of the config: base}, where heads become smaller.
    """

    narrowing: str
    hidden: int
    fields: dict[str, int]
    rotary_bases: Mapping[str, float] = dataclasses.field(default_factory=dict)


def fields_of(anatomy: Anatomy, meaning: str) -> list[str]:
    """Config fields of a meaning, such as "heads"."""
    return [field for field, field_meaning in anatomy.fields.items() if field_meaning == meaning]


def configured_size(config: PretrainedConfig, anatomy: Anatomy, field: str) -> int:
    """The size in a config field, or the family's own."""
    value = read_field(config, field)
    if value is not None:
        return int(value)
    return next(space.size for space in anatomy.spaces.values() if space.name.endswith(".ffn"))


def round_half_up(value: float) -> int:
    return int(value + 0.5)


def rounded(value: float, multiple: int) -> int:
    return round_half_up(value / multiple) * multiple


def on_grid(size: int, most: int) -> int:
    """A large size's nearest multiple of `GRID` that is smaller than `most`; other sizes as they are."""
    if size < GRID_FROM or size == most:
        return size
    return min(rounded(size, GRID), (most - 1) // GRID * GRID)


def head_on_grid(channels: int, most: int) -> int:
    """A head's nearest size of `GRID_HEADS`, of heads that have 64 channels or more in the teachers."""
    if most < GRID or channels == most:
        return channels
    return min((size for size in GRID_HEADS if size <= most), key=lambda size: abs(size - channels))


def free_width(width: float, anatomy: Anatomy, grid: bool = True) -> int:
    size = anatomy.residual.size
    hidden = round(width * size / WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    hidden = on_grid(hidden, size) if grid else hidden
    hidden = hidden or round(width * size)
    if hidden == 0:
        raise UserError(f"width {width:g} leaves none of the {size} residual channels: ask for more")
    return hidden


def head_fields(config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space]) -> dict[str, Space]:
    """{field that counts heads or groups: a space of that size}."""
    sized = {field: [s for s in attentions if s.name in anatomy.sized.get(field, ())] for field in anatomy.fields}
    return {
        field: next(
            (s for s in sized[field] or attentions if read_field(config, field) in (s.heads, s.groups)), attentions[0]
        )
        for field in [*fields_of(anatomy, "heads"), *fields_of(anatomy, "groups")]
    }


def hidden_fields(config: PretrainedConfig, anatomy: Anatomy, hidden: int) -> dict[str, int]:
    """Sizes of fields that size residual streams, where the first one has `hidden` channels."""
    share = Fraction(hidden, anatomy.residual.size)
    return {field: round(configured_size(config, anatomy, field) * share) for field in fields_of(anatomy, "hidden")}


def sizing_field(anatomy: Anatomy) -> str:
    """The first field that sizes these streams, or ""."""
    return next(iter([*fields_of(anatomy, "heads"), *fields_of(anatomy, "hidden")]), "")


def part_sizing(config: PretrainedConfig, anatomy: Anatomy) -> str:
    """The part of the config that sizes these streams."""
    path = part_of(sizing_field(anatomy))
    return path if isinstance(config_of_part(config, path), PretrainedConfig) else part_of(path)


def config_of_part(config: PretrainedConfig, part: str) -> PretrainedConfig:
    return read_field(config, part) if part else config


def pinned_heads(
    config: PretrainedConfig, attentions: Sequence[Space], teachers: Sequence[PretrainedConfig] = ()
) -> str:
    """Why heads keep their size, or ""."""
    if not all(space.mixable for space in attentions):
        return "their channels have gates or scales of their own"
    if not any(space.rotary for space in attentions):
        return ""
    if not all(space.pairs for space in attentions):
        return "their channels have a place (rotary positions)"
    positions = [getattr(each, "rope_parameters", None) or {} for each in (config, *teachers)]
    kind = positions[0].get("rope_type")
    if kind not in SCALABLE_ROTARY or not positions[0].get("rope_theta"):
        return f"their rotary positions ({kind}) depend on their size"
    alike = all(each == positions[0] for each in positions)
    return "" if alike else "the teachers' rotary positions are not alike"
