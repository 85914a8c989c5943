"""Widths that a family can express: fewer or smaller heads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Kind, Space
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.shape.streams import split_streams, stream_of
from compressor.models.config_fields import part_of, read_field
from compressor.recipe.fusion import BY_WIDTH, Ratios

#: Free residual widths are rounded to this multiple, for the hardware.
WIDTH_MULTIPLE = 8
#: Residual streams below this width are toys and not rounded.
TOY_WIDTH = 64
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


def attention_shapes(
    config: PretrainedConfig,
    anatomy: Anatomy,
    width: float,
    narrowing: str,
    teachers: Sequence[PretrainedConfig] = (),
    ratios: Ratios = BY_WIDTH,
) -> list[AttentionShape]:
    """The shapes of a student `width` times as wide, most promising first.

    Logits and values are of low rank, so smaller heads lose less than fewer ones, unless heads are copies.

    Args:
        config, anatomy: the widest teacher's.
        narrowing: a `Narrowing`, or auto for all of one width.
        ratios: shares of the hidden size and of heads, if these differ from the width.

    Raises:
        UserError: no channel or head is left, or heads cannot become smaller.
        UnsupportedError: nothing is known to count the heads.
    """
    streams = [_shapes(config, stream, width, narrowing, teachers, ratios) for stream in split_streams(anatomy)]
    count = max(map(len, streams))
    return [_together([shapes[min(place, len(shapes) - 1)] for shapes in streams]) for place in range(count)]


def _together(shapes: Sequence[AttentionShape]) -> AttentionShape:
    """The shape of several streams; the first one's width counts as the model's."""
    fields = {field: size for shape in shapes for field, size in shape.fields.items()}
    bases = {part: base for shape in shapes for part, base in shape.rotary_bases.items()}
    narrowing = next((shape.narrowing for shape in shapes if shape.narrowing), "")
    return AttentionShape(narrowing, shapes[0].hidden, fields, bases)


def _shapes(
    config: PretrainedConfig,
    anatomy: Anatomy,
    width: float,
    narrowing: str,
    teachers: Sequence[PretrainedConfig],
    ratios: Ratios,
) -> list[AttentionShape]:
    """The shapes of streams that one field sizes."""
    attentions = [space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION]
    if not attentions:
        hidden = _free_width(width if ratios.hidden is None else ratios.hidden, anatomy)
        return [AttentionShape("", hidden, _hidden_fields(config, anatomy, hidden))]
    if not fields_of(anatomy, "heads"):
        if width == 1:
            hidden = anatomy.residual.size
            return [AttentionShape("", hidden, _hidden_fields(config, anatomy, hidden))]
        raise UnsupportedError(
            f"this {config.model_type} cannot become narrower: no field of its config is known to count the heads of "
            f"{attentions[0].name}, or they keep their places in some layer; width 1 keeps them"
        )
    if ratios.heads is not None or ratios.hidden is not None:
        return [_apart(config, anatomy, attentions, width, narrowing, ratios)]
    part = _part(config, anatomy)
    pinned = _pinned(_config_of(config, part), attentions, [_config_of(each, part) for each in teachers])
    if narrowing in (Narrowing.SMALLER, Narrowing.ALL) and pinned:
        raise UserError(f"heads of this {config.model_type} cannot become smaller: {pinned}; leave narrowing out")
    shapes: list[AttentionShape] = []
    if narrowing != Narrowing.FEWER and not pinned:
        rotary = any(space.rotary for space in attentions)
        smaller = _smaller(config, anatomy, attentions, width)
        # More rotary heads would soon be too small for a frequency each.
        free = not rotary and not any(space.head_position_fixed for space in attentions)
        if narrowing == Narrowing.ALL or (narrowing == "auto" and free):
            shapes += [more for shape in smaller for more in _all(config, anatomy, shape, teachers)]
        if narrowing != Narrowing.ALL or not shapes:
            shapes += smaller
        shapes = [based for shape in shapes for based in _with_rotary_bases(config, anatomy, attentions, shape)]
    if narrowing in (Narrowing.FEWER, "auto"):
        shapes += _fewer(config, anatomy, attentions, width)
    if not shapes:
        raise UserError(_no_head(config, anatomy, attentions, width, narrowing))
    # All heads matter more than a slightly closer width.
    return [shape for shape in shapes if shape.hidden == shapes[0].hidden]


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


def _fewer(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], width: float
) -> list[AttentionShape]:
    """Fewer heads, in whole groups, if possible."""
    sizes: dict[str, int] = {}
    for field, space in _head_fields(config, anatomy, attentions).items():
        groups = round_half_up(width * space.groups)
        if groups == 0:
            return []
        per_group = space.heads // space.groups if field in fields_of(anatomy, "heads") else 1
        sizes[field] = groups * per_group
    if len({space.size for space in anatomy.residuals}) > 1:
        # Sizes of stages are multiples of the first one's.
        sizes = _scaled(config, sizes, Fraction(sizes[next(iter(sizes))], read_field(config, next(iter(sizes)))))
        if not sizes:
            return []
    first = attentions[0]
    if fields_of(anatomy, "head_dim"):
        hidden = _free_width(width, anatomy)
    else:
        hidden = round_half_up(width * first.groups) * (first.heads // first.groups) * first.head_dim
    sizes |= _hidden_fields(config, anatomy, hidden)
    return [AttentionShape(Narrowing.FEWER, hidden, sizes)] if hidden else []


def _smaller(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], width: float
) -> list[AttentionShape]:
    """As many heads of fewer channels, if possible."""
    sizes = {field: int(read_field(config, field)) for field in _head_fields(config, anatomy, attentions)}
    head_dims = fields_of(anatomy, "head_dim")
    if head_dims:
        hidden = _free_width(width, anatomy)
        channels = {field: _rounded(width * configured_size(config, anatomy, field), 2) for field in head_dims}
        if not hidden or not all(channels.values()):
            return []
        sizes |= channels
    else:
        step = _width_step(config, anatomy, attentions)
        hidden = min(_rounded(width * anatomy.residual.size, step), anatomy.residual.size)
    sizes |= _hidden_fields(config, anatomy, hidden)
    return [AttentionShape(Narrowing.SMALLER, hidden, sizes)] if hidden else []


def _apart(
    config: PretrainedConfig,
    anatomy: Anatomy,
    attentions: Sequence[Space],
    width: float,
    narrowing: str,
    ratios: Ratios,
) -> AttentionShape:
    """A hidden size and a number of heads that do not follow from each other.

    Where the config has the heads' size it stays, unless narrowing says smaller heads; else it is the quotient.
    """
    if len({space.size for space in anatomy.residuals}) > 1:
        raise UserError(f"the sizes of this {config.model_type}'s stages follow from each other: give --width alone")
    hidden_share, heads_share = (width if share is None else share for share in (ratios.hidden, ratios.heads))
    head_dims = fields_of(anatomy, "head_dim")
    smaller = ratios.heads is None and (narrowing == Narrowing.SMALLER or (narrowing == "auto" and not head_dims))
    sizes: dict[str, int] = {}
    for field, space in _head_fields(config, anatomy, attentions).items():
        groups = space.groups if smaller else max(1, round_half_up(heads_share * space.groups))
        sizes[field] = groups * (space.heads // space.groups if field in fields_of(anatomy, "heads") else 1)
    if head_dims:
        hidden = _free_width(hidden_share, anatomy)
        if smaller:
            sizes |= {field: _rounded(width * configured_size(config, anatomy, field), 2) for field in head_dims}
        shape = Narrowing.SMALLER if smaller else Narrowing.FEWER
    else:
        counts = [sizes[field] for field in fields_of(anatomy, "heads")]
        hidden = _divisible(hidden_share, anatomy, counts)
        shape = _quotient(config, anatomy, attentions, hidden, max(hidden // count for count in counts))
    return AttentionShape(shape, hidden, sizes | _hidden_fields(config, anatomy, hidden))


def _divisible(share: float, anatomy: Anatomy, heads: Sequence[int]) -> int:
    """A share of the residual stream that so many heads of an even size divide."""
    step = math.lcm(1 if anatomy.residual.size < TOY_WIDTH else WIDTH_MULTIPLE, *(2 * count for count in heads))
    most = anatomy.residual.size // step * step
    return min(max(_rounded(share * anatomy.residual.size, step), step), most)


def _quotient(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], hidden: int, channels: int
) -> Narrowing:
    """How attention becomes narrower where heads have so many channels.

    Raises:
        UserError: heads would be larger than the teachers', or cannot become smaller.
    """
    first = attentions[0]
    if channels > min(space.head_dim for space in attentions):
        least = hidden / first.head_dim / first.heads
        raise UserError(
            f"{hidden // channels} heads of a hidden size of {hidden} would be {channels} wide, and the teachers' are "
            f"{first.head_dim}: ask for more --heads ({least:.3g} or more), or less --hidden"
        )
    if channels == first.head_dim:
        return Narrowing.FEWER
    if pinned := _pinned(_config_of(config, _part(config, anatomy)), attentions):
        raise UserError(f"heads of this {config.model_type} cannot become smaller: {pinned}; give --width alone")
    return Narrowing.SMALLER


def _all(
    config: PretrainedConfig, anatomy: Anatomy, smaller: AttentionShape, teachers: Sequence[PretrainedConfig]
) -> list[AttentionShape]:
    """As many heads as all teachers have or divide the width."""
    head_fields, group_fields, head_dims = (fields_of(anatomy, meaning) for meaning in ("heads", "groups", "head_dim"))
    if len(head_dims) > 1 or len({space.size for space in anatomy.residuals}) > 1:
        return []
    sizes: dict[str, int] = {}
    for field in head_fields:
        heads = smaller.fields[field]
        channels = heads * smaller.fields[head_dims[0]] if head_dims else smaller.hidden
        together = sum(int(read_field(teacher, field)) for teacher in teachers)
        # Heads of a group stay together, so groups grow by the same factor.
        step = math.lcm(*(heads // math.gcd(heads, smaller.fields[group]) for group in group_fields))
        sizes[field] = max((n for n in range(step, together + 1, step) if channels % (2 * n) == 0), default=0)
        if sizes[field] <= heads:
            return []
        sizes |= {group: smaller.fields[group] * sizes[field] // heads for group in group_fields}
        if head_dims:
            sizes[head_dims[0]] = channels // sizes[field]
    return [AttentionShape(Narrowing.ALL, smaller.hidden, smaller.fields | sizes)]


def _head_fields(config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space]) -> dict[str, Space]:
    """{field that counts heads or groups: a space of that size}."""
    sized = {field: [s for s in attentions if s.name in anatomy.sized.get(field, ())] for field in anatomy.fields}
    return {
        field: next(
            (s for s in sized[field] or attentions if read_field(config, field) in (s.heads, s.groups)), attentions[0]
        )
        for field in [*fields_of(anatomy, "heads"), *fields_of(anatomy, "groups")]
    }


def _hidden_fields(config: PretrainedConfig, anatomy: Anatomy, hidden: int) -> dict[str, int]:
    """Sizes of fields that size residual streams, where the first one has `hidden` channels."""
    share = Fraction(hidden, anatomy.residual.size)
    return {field: round(configured_size(config, anatomy, field) * share) for field in fields_of(anatomy, "hidden")}


def _scaled(config: PretrainedConfig, sizes: Iterable[str], share: Fraction) -> dict[str, int]:
    """Fields scaled by one share; none if that leaves fractions."""
    scaled = {field: int(read_field(config, field)) * share for field in sizes}
    return (
        {field: int(size) for field, size in scaled.items()} if all(s.denominator == 1 for s in scaled.values()) else {}
    )


def _part(config: PretrainedConfig, anatomy: Anatomy) -> str:
    """The part of the config that sizes these streams."""
    path = part_of(next(iter([*fields_of(anatomy, "heads"), *fields_of(anatomy, "hidden")]), ""))
    return path if isinstance(_config_of(config, path), PretrainedConfig) else part_of(path)


def _config_of(config: PretrainedConfig, part: str) -> PretrainedConfig:
    return read_field(config, part) if part else config


def _pinned(config: PretrainedConfig, attentions: Sequence[Space], teachers: Sequence[PretrainedConfig] = ()) -> str:
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


def _with_rotary_bases(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], shape: AttentionShape
) -> list[AttentionShape]:
    """The shape with each rotary base that may suit smaller heads.

    Of frequencies θ^(-2j/d), base θ^(d'/d) keeps the first ones, base θ every d/d'-th.
    """
    if not any(space.rotary for space in attentions):
        return [shape]
    heads, head_dims = fields_of(anatomy, "heads")[0], fields_of(anatomy, "head_dim")
    channels = shape.fields[head_dims[0]] if head_dims else shape.hidden // shape.fields[heads]
    if channels == attentions[0].head_dim:
        return [shape]
    part = _part(config, anatomy)
    base = float(_config_of(config, part).rope_parameters["rope_theta"])
    bases = (base ** (channels / attentions[0].head_dim), base)
    return [replace(shape, rotary_bases={part: rotary_base}) for rotary_base in bases]


def _width_step(config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space]) -> int:
    """A divisor of widths, for even head channels; a stage may be several times as wide as the first."""
    multiple = 1 if anatomy.residual.size < TOY_WIDTH else WIDTH_MULTIPLE
    steps = []
    for field, space in _head_fields(config, anatomy, attentions).items():
        even = 2 * int(read_field(config, field))
        stage = anatomy.spaces[stream_of(space, anatomy)].size
        steps.append(even // math.gcd(even, max(1, stage // anatomy.residual.size)))
    return math.lcm(multiple, *steps)


def _free_width(width: float, anatomy: Anatomy) -> int:
    size = anatomy.residual.size
    hidden = round(width * size / WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    hidden = hidden or round(width * size)
    if hidden == 0:
        raise UserError(f"width {width:g} leaves none of the {size} residual channels: ask for more")
    return hidden


def _rounded(value: float, multiple: int) -> int:
    return round_half_up(value / multiple) * multiple


def _no_head(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], width: float, narrowing: str
) -> str:
    """The message if no head is left."""
    space = min(attentions, key=lambda space: space.groups)
    units = "key–value groups" if space.groups < space.heads else "attention heads"
    by_size = 0.5 * _width_step(config, anatomy, attentions) / anatomy.residual.size
    least = {Narrowing.FEWER: 0.5 / space.groups, Narrowing.SMALLER: by_size, Narrowing.ALL: by_size}
    allowed = [share for name, share in least.items() if narrowing in (name, "auto")]
    pinned = _pinned(_config_of(config, _part(config, anatomy)), attentions)
    return (
        f"width {width:g} leaves none of the {space.groups} {units} of this {config.model_type}: "
        f"ask for at least {min(allowed[:1] if pinned else allowed):.3g}"
    )
