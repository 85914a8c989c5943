"""Widths that a family can express: fewer or smaller heads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Kind, Space
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.shape.parts import part_widths, width_of
from compressor.fusion.shape.ratios import shape_by_ratios
from compressor.fusion.shape.sizes import (
    GRID_FROM,
    HEAD_MULTIPLE,
    TOY_WIDTH,
    WIDTH_MULTIPLE,
    AttentionShape,
    Narrowing,
    config_of_part,
    configured_size,
    fields_of,
    free_width,
    head_fields,
    head_on_grid,
    hidden_fields,
    part_sizing,
    pinned_heads,
    round_half_up,
    rounded,
    sizing_field,
)
from compressor.fusion.shape.streams import keeps_width, split_streams, stream_of
from compressor.models.configs.fields import read_field
from compressor.recipe.fusion import BY_WIDTH, Ratios


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
        UnsupportedError: nothing is known to count the heads, or all streams keep their width.
    """
    parts = split_streams(anatomy)
    if (width != 1 or ratios.hidden or ratios.heads) and all(map(keeps_width, parts)):
        name = anatomy.residual.name
        why = anatomy.pinned.get(name, "no field of the config sizes it alone")
        raise UnsupportedError(
            f"the stream of this {config.model_type} cannot become narrower: the coordinates of {name} have fixed "
            f"places ({why}); ask for width 1 and fewer hidden units (--width 1 --ffn 0.5)"
        )
    widths = part_widths(config, ratios)
    streams = [
        _shapes(config, stream, width_of(sizing_field(stream), width, widths), narrowing, teachers, ratios)
        for stream in parts
    ]
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
    if keeps_width(anatomy):
        return [AttentionShape("", anatomy.residual.size, {})]
    attentions = [space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION]
    if not attentions:
        hidden = free_width(width if ratios.hidden is None else ratios.hidden, anatomy, ratios.grid)
        return [AttentionShape("", hidden, hidden_fields(config, anatomy, hidden))]
    if not fields_of(anatomy, "heads"):
        if width == 1:
            hidden = anatomy.residual.size
            return [AttentionShape("", hidden, hidden_fields(config, anatomy, hidden))]
        raise UnsupportedError(
            f"this {config.model_type} cannot become narrower: no field of its config is known to count the heads of "
            f"{attentions[0].name}, or they keep their places in some layer; width 1 keeps them"
        )
    if ratios.heads is not None or ratios.hidden is not None:
        return [shape_by_ratios(config, anatomy, attentions, width, narrowing, ratios)]
    part = part_sizing(config, anatomy)
    pinned = pinned_heads(config_of_part(config, part), attentions, [config_of_part(each, part) for each in teachers])
    if narrowing in (Narrowing.SMALLER, Narrowing.ALL) and pinned:
        raise UserError(f"heads of this {config.model_type} cannot become smaller: {pinned}; leave narrowing out")
    shapes: list[AttentionShape] = []
    if narrowing != Narrowing.FEWER and not pinned:
        rotary = any(space.rotary for space in attentions)
        smaller = _smaller(config, anatomy, attentions, width, ratios.grid)
        # More rotary heads would soon be too small for a frequency each.
        free = not rotary and not any(space.head_position_fixed for space in attentions)
        if narrowing == Narrowing.ALL or (narrowing == "auto" and free):
            shapes += [more for shape in smaller for more in _all(config, anatomy, shape, teachers)]
        if narrowing != Narrowing.ALL or not shapes:
            shapes += smaller
        shapes = [based for shape in shapes for based in _with_rotary_bases(config, anatomy, attentions, shape)]
    if narrowing in (Narrowing.FEWER, "auto"):
        shapes += _fewer(config, anatomy, attentions, width, ratios.grid)
    if not shapes:
        raise UserError(_no_head(config, anatomy, attentions, width, narrowing))
    # All heads matter more than a slightly closer width.
    return [shape for shape in shapes if shape.hidden == shapes[0].hidden]


def _fewer(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], width: float, grid: bool
) -> list[AttentionShape]:
    """Fewer heads, in whole groups, if possible."""
    sizes: dict[str, int] = {}
    for field, space in head_fields(config, anatomy, attentions).items():
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
        hidden = free_width(width, anatomy, grid)
    else:
        hidden = round_half_up(width * first.groups) * (first.heads // first.groups) * first.head_dim
    sizes |= hidden_fields(config, anatomy, hidden)
    return [AttentionShape(Narrowing.FEWER, hidden, sizes)] if hidden else []


def _smaller(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], width: float, grid: bool
) -> list[AttentionShape]:
    """As many heads of fewer channels, if possible."""
    sizes = {field: int(read_field(config, field)) for field in head_fields(config, anatomy, attentions)}
    head_dims = fields_of(anatomy, "head_dim")
    if head_dims:
        hidden = free_width(width, anatomy, grid)
        full = {field: configured_size(config, anatomy, field) for field in head_dims}
        channels = {field: rounded(width * size, 2) for field, size in full.items()}
        if grid and all(channels.values()):
            channels = {field: head_on_grid(size, full[field]) for field, size in channels.items()}
        if not hidden or not all(channels.values()):
            return []
        sizes |= channels
    else:
        step = _width_step(config, anatomy, attentions)
        coarse = _width_step(config, anatomy, attentions, HEAD_MULTIPLE)
        if grid and anatomy.residual.size >= GRID_FROM and rounded(width * anatomy.residual.size, coarse):
            step = coarse
        hidden = min(rounded(width * anatomy.residual.size, step), anatomy.residual.size)
    sizes |= hidden_fields(config, anatomy, hidden)
    return [AttentionShape(Narrowing.SMALLER, hidden, sizes)] if hidden else []


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


def _scaled(config: PretrainedConfig, sizes: Iterable[str], share: Fraction) -> dict[str, int]:
    """Fields scaled by one share; none if that leaves fractions."""
    scaled = {field: int(read_field(config, field)) * share for field in sizes}
    return (
        {field: int(size) for field, size in scaled.items()} if all(s.denominator == 1 for s in scaled.values()) else {}
    )


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
    part = part_sizing(config, anatomy)
    base = float(config_of_part(config, part).rope_parameters["rope_theta"])
    bases = (base ** (channels / attentions[0].head_dim), base)
    return [replace(shape, rotary_bases={part: rotary_base}) for rotary_base in bases]


def _width_step(config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], channels: int = 2) -> int:
    """A divisor of widths, for multiples of `channels` in a head; a stage may be several times as wide as the first."""
    multiple = 1 if anatomy.residual.size < TOY_WIDTH else WIDTH_MULTIPLE
    steps = []
    for field, space in head_fields(config, anatomy, attentions).items():
        even = channels * int(read_field(config, field))
        stage = anatomy.spaces[stream_of(space, anatomy)].size
        steps.append(even // math.gcd(even, max(1, stage // anatomy.residual.size)))
    return math.lcm(multiple, *steps)


def _no_head(
    config: PretrainedConfig, anatomy: Anatomy, attentions: Sequence[Space], width: float, narrowing: str
) -> str:
    """The message if no head is left."""
    space = min(attentions, key=lambda space: space.groups)
    units = "key–value groups" if space.groups < space.heads else "attention heads"
    by_size = 0.5 * _width_step(config, anatomy, attentions) / anatomy.residual.size
    least = {Narrowing.FEWER: 0.5 / space.groups, Narrowing.SMALLER: by_size, Narrowing.ALL: by_size}
    allowed = [share for name, share in least.items() if narrowing in (name, "auto")]
    pinned = pinned_heads(config_of_part(config, part_sizing(config, anatomy)), attentions)
    return (
        f"width {width:g} leaves none of the {space.groups} {units} of this {config.model_type}: "
        f"ask for at least {min(allowed[:1] if pinned else allowed):.3g}"
    )
