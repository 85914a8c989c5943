"""From growth to meaning: which config fields are the residual width, the FFN, the heads; and the small test config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from transformers import PretrainedConfig

from compressor.anatomy.resize import BUILD_ERRORS, Growth, Skeleton, build_on_meta, with_fields
from compressor.errors import UnsupportedError


class Meaning(StrEnum):
    """What a config field sizes."""

    HIDDEN = "hidden"
    FFN = "ffn"
    HEADS = "heads"
    GROUPS = "groups"
    HEAD_DIM = "head_dim"
    FIXED = "fixed"


@dataclass(frozen=True)
class Sizes:
    """The fields of one config by meaning; `heads_from_hidden` says that head size is hidden size over heads."""

    meanings: Mapping[str, Meaning]
    values: Mapping[str, int]
    head_fields: tuple[str, ...]

    def fields(self, meaning: Meaning) -> list[str]:
        return [field for field, found in self.meanings.items() if found is meaning]

    @property
    def heads_from_hidden(self) -> bool:
        return not self.fields(Meaning.HEAD_DIM)


def interpret(skeleton: Skeleton) -> Sizes:
    """Tell the fields apart by where they make the model grow.

    A field that grows both layers and what lies outside is the residual width.  An axis inside the layers that two
    fields grow is heads × channels.  A field that grows axes of the layers alone is an FFN; one that grows nothing in
    the layers (vocabulary, positions, classes) is fixed.

    Raises:
        UnsupportedError: no field sizes the residual stream.
    """
    inside = {
        growth.field: {axis for axis in growth.rates if skeleton.split_layer(axis[0])[0] is not None}
        for growth in skeleton.growths
    }
    meanings: dict[str, Meaning] = {}
    for growth in skeleton.growths:
        layer_axes = inside[growth.field]
        if not layer_axes:
            meanings[growth.field] = Meaning.FIXED
        elif len(layer_axes) < len(growth.rates):
            meanings[growth.field] = Meaning.HIDDEN
        else:
            meanings[growth.field] = Meaning.FFN
    inner = [growth for growth in skeleton.growths if meanings[growth.field] is Meaning.FFN]
    for growth in inner:
        if any(inside[growth.field] & inside[other.field] for other in inner if other is not growth):
            meanings[growth.field] = _attention_meaning(growth)
    if Meaning.HIDDEN not in meanings.values():
        raise UnsupportedError(f"no field of the {skeleton.config.model_type} config sizes a residual stream")
    head_fields = tuple(field for field in _count_fields(skeleton.config) if "head" in field)
    return Sizes(meanings, {growth.field: growth.value for growth in skeleton.growths}, head_fields)


def _attention_meaning(growth: Growth) -> Meaning:
    """Counts of heads and sizes of heads grow the same axes; only the fields' names tell them apart."""
    if not re.search(r"(^|_)(num|n)_|_heads?$", growth.field):
        return Meaning.HEAD_DIM
    return Meaning.GROUPS if re.search(r"key_value|kv", growth.field) else Meaning.HEADS


def _count_fields(config: PretrainedConfig) -> list[str]:
    names = {config.attribute_map.get(name, name) for name in [*config.to_dict(), *config.attribute_map]}
    return sorted(
        name
        for name in names
        if isinstance(getattr(config, name, None), int) and not isinstance(getattr(config, name), bool)
    )


def reduced(skeleton: Skeleton, sizes: Sizes) -> PretrainedConfig:
    """The same config at a size at which the certificate takes milliseconds.

    Raises:
        UnsupportedError: the family refuses every small size tried.
    """
    config = skeleton.config
    for head_dim in (8, 16, 32, 64):
        values: dict[str, int] = {}
        groups = next((sizes.values[field] for field in sizes.fields(Meaning.GROUPS)), None)
        for field in sizes.fields(Meaning.FFN):
            values[field] = 40
        if sizes.heads_from_hidden:
            heads = next((getattr(config, field) for field in sizes.head_fields), 1)
            small = 3 if heads % 2 else 4
            values |= {field: min(small, getattr(config, field)) for field in sizes.head_fields}
            values |= {field: min(small, heads) * head_dim for field in sizes.fields(Meaning.HIDDEN)}
        else:
            per_group = max(1, sizes.values[sizes.fields(Meaning.HEADS)[0]] // groups) if groups else 1
            kept = min(2, groups) if groups else 4
            values |= {field: head_dim for field in sizes.fields(Meaning.HEAD_DIM)}
            values |= {field: kept * min(per_group, 2) for field in sizes.fields(Meaning.HEADS)}
            values |= {field: kept for field in sizes.fields(Meaning.GROUPS)}
            values |= {field: 3 * head_dim for field in sizes.fields(Meaning.HIDDEN)}
        small_config = with_fields(config, values)
        try:
            build_on_meta(small_config)
        except BUILD_ERRORS:
            continue
        return small_config
    raise UnsupportedError(f"the {config.model_type} config cannot be built at a small size to be certified")
