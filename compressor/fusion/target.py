"""The student's shape: a width turned into a config that its family can express."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Kind, Space
from compressor.anatomy.resize import BUILD_ERRORS, build_on_meta, with_fields
from compressor.errors import UserError

#: Residual widths that are free of head counts are rounded to this multiple, which hardware likes.
WIDTH_MULTIPLE = 8


@dataclass(frozen=True)
class Target:
    """A student's config, what was asked for and what was given, and its sizes by config field."""

    config: PretrainedConfig
    asked_width: float
    given_width: float
    fields: dict[str, tuple[int, int]]

    def summary(self) -> dict[str, Any]:
        return {
            "asked_width": self.asked_width,
            "given_width": self.given_width,
            "fields": {field: {"teacher": old, "student": new} for field, (old, new) in self.fields.items()},
        }


def target_config(config: PretrainedConfig, anatomy: Anatomy, width: float) -> Target:
    """The config of a student `width` times as wide: whole heads (or key–value groups) of the teacher's head size.

    Args:
        config: the widest teacher's config.
        anatomy: its anatomy.
        width: share of the residual width, in (0, 1].

    Raises:
        UserError: no whole head or no channel is left, or the family cannot be built at that size.
    """
    residual = anatomy.residual.size
    attention = next((space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION), None)
    ffn = next((s for s in anatomy.spaces.values() if s.kind is Kind.HIDDEN and s.name.endswith(".ffn")), None)
    values = {field: max(1, round(width * ffn.size)) for field in _fields(anatomy, "ffn")} if ffn else {}
    hidden = round(width * residual / WIDTH_MULTIPLE) * WIDTH_MULTIPLE or round(width * residual)
    if attention is not None:
        groups = _round_half_up(width * attention.groups)
        if groups == 0:
            raise UserError(_no_head(config, attention, width))
        heads = groups * (attention.heads // attention.groups)
        values |= {field: heads for field in _fields(anatomy, "heads")}
        values |= {field: groups for field in _fields(anatomy, "groups")}
        if not _fields(anatomy, "head_dim"):
            hidden = heads * attention.head_dim
    if hidden == 0:
        raise UserError(f"width {width:g} leaves none of the {residual} residual channels: ask for more")
    values |= {field: hidden for field in _fields(anatomy, "hidden")}
    student = with_fields(config, values)
    try:
        build_on_meta(student)
    except BUILD_ERRORS as error:
        raise UserError(f"{config.model_type} cannot be built at width {width:g} ({values}): {error}") from None
    sizes = {"ffn": ffn.size if ffn else 0}
    fields = {field: (getattr(config, field) or sizes["ffn"], new) for field, new in values.items()}
    return Target(student, width, hidden / residual, fields)


def _fields(anatomy: Anatomy, meaning: str) -> list[str]:
    return [field for field, found in anatomy.fields.items() if found == meaning]


def _round_half_up(value: float) -> int:
    return int(value + 0.5)


def _no_head(config: PretrainedConfig, attention: Space, width: float) -> str:
    what = "key–value groups" if attention.groups < attention.heads else "attention heads"
    return (
        f"width {width:g} leaves none of the {attention.groups} {what} of this {config.model_type}: "
        f"ask for at least {0.5 / attention.groups:.3g}"
    )
