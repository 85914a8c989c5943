"""Hidden size and heads by shares of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Space
from compressor.errors import UserError
from compressor.fusion.shape.sizes import (
    TOY_WIDTH,
    WIDTH_MULTIPLE,
    AttentionShape,
    Narrowing,
    config_of_part,
    configured_size,
    fields_of,
    free_width,
    head_fields,
    hidden_fields,
    part_sizing,
    pinned_heads,
    round_half_up,
    rounded,
)
from compressor.recipe.fusion import Ratios


def shape_by_ratios(
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
    for field, space in head_fields(config, anatomy, attentions).items():
        groups = space.groups if smaller else max(1, round_half_up(heads_share * space.groups))
        sizes[field] = groups * (space.heads // space.groups if field in fields_of(anatomy, "heads") else 1)
    if head_dims:
        hidden = free_width(hidden_share, anatomy)
        if smaller:
            sizes |= {field: rounded(width * configured_size(config, anatomy, field), 2) for field in head_dims}
        shape = Narrowing.SMALLER if smaller else Narrowing.FEWER
    else:
        counts = [sizes[field] for field in fields_of(anatomy, "heads")]
        hidden = _divisible(hidden_share, anatomy, counts)
        shape = _quotient(config, anatomy, attentions, hidden, max(hidden // count for count in counts))
    return AttentionShape(shape, hidden, sizes | hidden_fields(config, anatomy, hidden))


def _divisible(share: float, anatomy: Anatomy, heads: Sequence[int]) -> int:
    """A share of the residual stream that so many heads of an even size divide."""
    step = math.lcm(1 if anatomy.residual.size < TOY_WIDTH else WIDTH_MULTIPLE, *(2 * count for count in heads))
    most = anatomy.residual.size // step * step
    return min(max(rounded(share * anatomy.residual.size, step), step), most)


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
    if pinned := pinned_heads(config_of_part(config, part_sizing(config, anatomy)), attentions):
        raise UserError(f"heads of this {config.model_type} cannot become smaller: {pinned}; give --width alone")
    return Narrowing.SMALLER
