"""Widths that a family can express, and how attention becomes narrower: fewer heads, or smaller ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Kind, Space
from compressor.errors import UserError

#: Residual widths are rounded to this multiple, which hardware likes, where heads leave them free.
WIDTH_MULTIPLE = 8
#: Residual streams below this width are toys, which are not rounded to that multiple.
TOY = 64
FEWER, SMALLER, ALL = "fewer-heads", "smaller-heads", "all-heads"
#: Kinds of rotary positions whose frequencies follow from base and number of channels alone.
TURNING = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of a student's attention and residual stream.

    Attributes:
        narrowing: fewer-heads, smaller-heads or all-heads; "" where there is no attention.
        hidden: the residual width.
        fields: {config field: size}.
        rotary_base: of rotary positions whose heads become smaller.
    """

    narrowing: str
    hidden: int
    fields: dict[str, int]
    rotary_base: float | None = None


def attention_shapes(
    config: PretrainedConfig,
    anatomy: Anatomy,
    width: float,
    narrowing: str,
    teachers: Sequence[PretrainedConfig] = (),
) -> list[AttentionShape]:
    """The shapes of a student `width` times as wide, the more promising first.

    A head's logits and values are of low rank, so smaller heads keep more than fewer do, and with as many as all
    teachers have together none of them is left out.  But heads that are copies of each other are best left out.
    Smaller heads of rotary positions have fewer frequencies: the fastest of the teachers', or some spread over all.

    Args:
        config: the widest teacher's config.
        anatomy: its anatomy.
        width: share of the residual width.
        narrowing: fewer-heads, smaller-heads, all-heads, or auto for those that have the width that smaller heads have.
        teachers: all teachers' configs.

    Raises:
        UserError: no channel or no head is left, or heads cannot become smaller.
    """
    attentions = [space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION]
    if not attentions:
        hidden = _free_width(width, anatomy)
        return [AttentionShape("", hidden, dict.fromkeys(fields_of(anatomy, "hidden"), hidden))]
    pinned = _pinned(config, attentions, teachers)
    if narrowing in (SMALLER, ALL) and pinned:
        raise UserError(f"heads of this {config.model_type} cannot become smaller: {pinned}; leave narrowing out")
    found: list[AttentionShape] = []
    if narrowing != FEWER and not pinned:
        turning = any(space.rotary for space in attentions)
        smaller = _smaller(config, anatomy, attentions, width)
        # Rotary heads are soon too small for a frequency each.
        if narrowing == ALL or (
            narrowing == "auto" and not turning and not any(s.head_position_fixed for s in attentions)
        ):
            found += [more for shape in smaller for more in _all(config, anatomy, shape, teachers)]
        if narrowing != ALL or not found:
            found += smaller
        found = [one for shape in found for one in _turning(config, anatomy, attentions, shape)]
    if narrowing in (FEWER, "auto"):
        found += _fewer(config, anatomy, attentions, width)
    if not found:
        raise UserError(_no_head(config, anatomy, attentions, width, narrowing))
    # As many heads as before matter more than coming a little nearer to the width.
    return [shape for shape in found if shape.hidden == found[0].hidden]


def fields_of(anatomy: Anatomy, meaning: str) -> list[str]:
    """Config fields of a meaning, such as "heads"."""
    return [field for field, found in anatomy.fields.items() if found == meaning]


def configured_size(config: PretrainedConfig, anatomy: Anatomy, field: str) -> int:
    """The size that a field gives; of an unset one the size that the family derives."""
    value = getattr(config, field)
    if value is not None:
        return int(value)
    return next(space.size for space in anatomy.spaces.values() if space.name.endswith(".ffn"))


def _fewer(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], width: float
) -> list[AttentionShape]:
    """Whole heads of the teachers' size, whole groups kept together; none if no group is left."""
    found: dict[str, int] = {}
    for field, space in _head_fields(config, anatomy, attentions).items():
        groups = _round_half_up(width * space.groups)
        if groups == 0:
            return []
        per = space.heads // space.groups if field in fields_of(anatomy, "heads") else 1
        found[field] = groups * per
    first = attentions[0]
    if fields_of(anatomy, "head_dim"):
        hidden = _free_width(width, anatomy)
    else:
        hidden = _round_half_up(width * first.groups) * (first.heads // first.groups) * first.head_dim
    return (
        [AttentionShape(FEWER, hidden, found | dict.fromkeys(fields_of(anatomy, "hidden"), hidden))] if hidden else []
    )


def _smaller(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], width: float
) -> list[AttentionShape]:
    """As many heads with fewer channels each; none if no channel is left."""
    heads = {field: int(getattr(config, field)) for field in _head_fields(config, anatomy, attentions)}
    sizes = fields_of(anatomy, "head_dim")
    if sizes:
        hidden = _free_width(width, anatomy)
        channels = {field: _rounded(width * configured_size(config, anatomy, field), 2) for field in sizes}
        if not hidden or not all(channels.values()):
            return []
        return [AttentionShape(SMALLER, hidden, heads | channels | dict.fromkeys(fields_of(anatomy, "hidden"), hidden))]
    hidden = min(_rounded(width * anatomy.residual.size, _step(anatomy, heads)), anatomy.residual.size)
    return (
        [AttentionShape(SMALLER, hidden, heads | dict.fromkeys(fields_of(anatomy, "hidden"), hidden))] if hidden else []
    )


def _all(
    config: PretrainedConfig, anatomy: Anatomy, smaller: AttentionShape, teachers: Sequence[PretrainedConfig]
) -> list[AttentionShape]:
    """As many heads as all teachers have together, or as divide the width, groups along; none of one teacher."""
    counting, grouping, sizes = (fields_of(anatomy, meaning) for meaning in ("heads", "groups", "head_dim"))
    if len(sizes) > 1:
        return []
    found: dict[str, int] = {}
    for field in counting:
        own = smaller.fields[field]
        whole = own * smaller.fields[sizes[0]] if sizes else smaller.hidden
        together = sum(int(getattr(teacher, field)) for teacher in teachers)
        # Heads of a group stay together, so groups are as many times as many.
        per = math.lcm(*(own // math.gcd(own, smaller.fields[group]) for group in grouping))
        found[field] = max((n for n in range(per, together + 1, per) if whole % (2 * n) == 0), default=0)
        if found[field] <= own:
            return []
        found |= {group: smaller.fields[group] * found[field] // own for group in grouping}
        if sizes:
            found[sizes[0]] = whole // found[field]
    return [AttentionShape(ALL, smaller.hidden, smaller.fields | found)]


def _head_fields(config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space]) -> dict[str, Space]:
    """The fields that count heads or groups, and an attention space that each of them sizes."""
    return {
        field: next((s for s in attentions if getattr(config, field) in (s.heads, s.groups)), attentions[0])
        for field in [*fields_of(anatomy, "heads"), *fields_of(anatomy, "groups")]
    }


def _pinned(config: PretrainedConfig, attentions: Sequence[Space], teachers: Sequence[PretrainedConfig] = ()) -> str:
    """Why heads keep their size; "" if they need not."""
    if not any(space.rotary for space in attentions):
        return ""
    if not all(space.pairs for space in attentions):
        return "their channels have a place (rotary positions)"
    positions = [getattr(one, "rope_parameters", None) or {} for one in (config, *teachers)]
    kind = positions[0].get("rope_type")
    if kind not in TURNING or not positions[0].get("rope_theta"):
        return f"their rotary positions ({kind}) depend on their size"
    return "" if all(one == positions[0] for one in positions) else "the teachers' rotary positions are not alike"


def _turning(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], shape: AttentionShape
) -> list[AttentionShape]:
    """The shape with each of the rotary bases that may suit its smaller heads; the shape where positions do not turn.

    A head of d channels has the frequencies θ^(-2j/d).  Of d' channels with the base θ^(d'/d) it has the first of them;
    with the same base it has every d/d'-th.
    """
    if not any(space.rotary for space in attentions):
        return [shape]
    heads, sizes = fields_of(anatomy, "heads")[0], fields_of(anatomy, "head_dim")
    channels = shape.fields[sizes[0]] if sizes else shape.hidden // shape.fields[heads]
    if channels == attentions[0].head_dim:
        return [shape]
    base = float(config.rope_parameters["rope_theta"])
    return [replace(shape, rotary_base=one) for one in (base ** (channels / attentions[0].head_dim), base)]


def _step(anatomy: Anatomy, heads: dict[str, int]) -> int:
    """Residual widths that all heads divide, into even numbers of channels, are multiples of this."""
    multiple = 1 if anatomy.residual.size < TOY else WIDTH_MULTIPLE
    return math.lcm(multiple, *(2 * count for count in heads.values()))


def _free_width(width: float, anatomy: Anatomy) -> int:
    hidden = round(width * anatomy.residual.size / WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    hidden = hidden or round(width * anatomy.residual.size)
    if hidden == 0:
        size = anatomy.residual.size
        raise UserError(f"width {width:g} leaves none of the {size} residual channels: ask for more")
    return hidden


def _rounded(value: float, multiple: int) -> int:
    return _round_half_up(value / multiple) * multiple


def _round_half_up(value: float) -> int:
    return int(value + 0.5)


def _no_head(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], width: float, narrowing: str
) -> str:
    space = min(attentions, key=lambda space: space.groups)
    what = "key–value groups" if space.groups < space.heads else "attention heads"
    heads = {field: int(getattr(config, field)) for field in _head_fields(config, anatomy, attentions)}
    by_size = 0.5 * _step(anatomy, heads) / anatomy.residual.size
    least = {FEWER: 0.5 / space.groups, SMALLER: by_size, ALL: by_size}
    allowed = [share for name, share in least.items() if narrowing in (name, "auto")]
    pinned = _pinned(config, attentions)
    return (
        f"width {width:g} leaves none of the {space.groups} {what} of this {config.model_type}: "
        f"ask for at least {min(allowed[:1] if pinned else allowed):.3g}"
    )
