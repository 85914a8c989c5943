"""The student's shape: a width and a depth turned into a config that its family can express."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Kind, Space, Stack
from compressor.anatomy.resize import BUILD_ERRORS, build_on_meta, with_fields, with_layers
from compressor.errors import UserError
from compressor.fusion.depth import evenly

#: Residual widths that are free of head counts are rounded to this multiple, which hardware likes.
WIDTH_MULTIPLE = 8


@dataclass(frozen=True)
class Target:
    """A student's config, what was asked for and what was given, and its sizes by config field."""

    config: PretrainedConfig
    asked_width: float
    given_width: float
    fields: dict[str, tuple[int, int]]
    asked_depth: float | int | None = None

    def summary(self) -> dict[str, Any]:
        return {
            "asked_width": self.asked_width,
            "given_width": self.given_width,
            "asked_depth": self.asked_depth,
            "fields": {field: {"teacher": old, "student": new} for field, (old, new) in self.fields.items()},
        }


def target_config(
    config: PretrainedConfig, anatomy: Anatomy, width: float, depth: float | int | None = None,
    depths: tuple[int, ...] | None = None,
) -> Target:  # fmt: skip
    """The config of a student `width` times as wide: whole heads (or key–value groups) of the teacher's head size.

    Args:
        config: the widest teacher's config.
        anatomy: its anatomy.
        width: share of the residual width, in (0, 1].
        depth: layers of every stack, or below 1 (or as a float) their share of the deepest teacher's; None for all.
        depths: layers of every stack of the deepest teacher, where that is not this one.

    Raises:
        UserError: no whole head, no channel or no layer is left, or the family cannot be built at that size.
    """
    residual = anatomy.residual.size
    values: dict[str, int] = {}
    for field in _fields(anatomy, "ffn"):
        values[field] = max(1, round(width * _size_of(config, anatomy, field)))
    attentions = [space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION]
    hidden = round(width * residual / WIDTH_MULTIPLE) * WIDTH_MULTIPLE or round(width * residual)
    if attentions:
        values |= _heads(config, anatomy, attentions, width)
        if not _fields(anatomy, "head_dim"):
            first = attentions[0]
            hidden = _round_half_up(width * first.groups) * (first.heads // first.groups) * first.head_dim
    if hidden == 0:
        raise UserError(f"width {width:g} leaves none of the {residual} residual channels: ask for more")
    values |= {field: hidden for field in _fields(anatomy, "hidden")}
    student = with_fields(config, values)
    sizes = {field: getattr(config, field) or _size_of(config, anatomy, field) for field in values}
    for index, stack in enumerate(anatomy.stacks):
        own = stack.runs if stack.runs > 1 else len(stack.layers)
        wanted = _depth(depth, depths[index] if depths else own)
        if wanted != own:
            if stack.runs > 1:
                raise UserError(f"the layers of this {config.model_type} share their weights: leave depth out")
            student = with_layers(student, stack.fields, evenly(wanted, own))
            values |= dict.fromkeys(stack.fields[:1], wanted)
            sizes |= dict.fromkeys(stack.fields[:1], depths[index] if depths else own)
    try:
        build_on_meta(student)
    except BUILD_ERRORS as error:
        raise UserError(f"{config.model_type} cannot be built at width {width:g} ({values}): {error}") from None
    return Target(student, width, hidden / residual, {f: (sizes[f], new) for f, new in values.items()}, depth)


def depth_of(stack: Stack) -> int:
    """How many layers run one after the other."""
    return stack.runs if stack.runs > 1 else len(stack.layers)


def _depth(asked: float | int | None, deepest: int) -> int:
    """The number of layers that is asked for.

    Raises:
        UserError: there are not that many, or none is left.
    """
    if asked is None:
        return deepest
    share = isinstance(asked, float) and 0 < asked <= 1
    wanted = _round_half_up(asked * deepest) if share else int(asked)
    if not 0 < wanted <= deepest or (not share and wanted != asked):
        raise UserError(
            f"depth {asked:g} of {deepest} layers is not possible: give a share up to 1.0 or 1 to {deepest}"
        )
    return wanted


def _heads(config: PretrainedConfig, anatomy: Anatomy, attentions: list[Space], width: float) -> dict[str, int]:
    """Heads and groups by field, whole groups kept together.

    Raises:
        UserError: no group is left.
    """
    found: dict[str, int] = {}
    for field in [*_fields(anatomy, "heads"), *_fields(anatomy, "groups")]:
        count = getattr(config, field)
        space = next((s for s in attentions if count in (s.heads, s.groups)), attentions[0])
        groups = _round_half_up(width * space.groups)
        if groups == 0:
            raise UserError(_no_head(config, space, width))
        per = space.heads // space.groups if field in _fields(anatomy, "heads") else 1
        found[field] = groups * per
    return found


def _size_of(config: PretrainedConfig, anatomy: Anatomy, field: str) -> int:
    """The size that a field gives; of an unset one the size that the family derives."""
    value = getattr(config, field)
    if value is not None:
        return int(value)
    return next(space.size for space in anatomy.spaces.values() if space.name.endswith(".ffn"))


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
