"""Small configs of a family, on which it is watched and proven."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from compressor.anatomy.fields import HEAD_SIZE, head_counts
from compressor.anatomy.resize import Skeleton
from compressor.models.configs.fields import field_paths, part_of, parts_of, read_field, with_fields

#: Limits of fields that only cost time in a small config.
_SHORT = {"vocab_size": 160, "max_source_positions": 16}


def reduced(skeleton: Skeleton) -> Iterator[PretrainedConfig]:
    """Small configs, smallest first; equal fields stay equal."""
    config = skeleton.config
    # Some models read the hidden units of one part as channels of another: then ratios count.
    for head_dim, proportional in ((8, False), (16, False), (32, False), (64, False), (8, True), (16, True)):
        yield with_fields(config, _small_values(skeleton, head_dim, proportional=proportional))
    values = _small_values(skeleton, 8, proportional=False)
    # Some derive a size from others in a way of their own.
    yield with_fields(config, {name: value for name, value in values.items() if read_field(config, name) is not None})
    # Some read tokens that no field of the config names.
    yield with_fields(config, {name: value for name, value in values.items() if not _OF_TOKENS.search(name)})
    # Where sizes add up to others, or a recurrence's heads fill its width, all of them shrink by one factor.
    for factor in (64, 32, 16, 8, 4):
        if scaled := _divided(skeleton, factor):
            yield with_fields(config, {**scaled, **_all_short(config, scaled)})
    yield config


#: Fields of the vocabulary and its tokens.
_OF_TOKENS = re.compile(r"vocab_size|_token_id$|_token_index$")


def _small_values(skeleton: Skeleton, head_dim: int, *, proportional: bool) -> dict[str, Any]:
    """Small values of all fields.

    Args:
        proportional: multiples of a width stay so: some models read hidden units of one part as channels of another.
    """
    values: dict[str, Any] = {}
    # Equal sizes of several parts may have to be equal, as those of an encoder and what reads it.
    sizes: dict[int, int] = {}
    tokens = _large_tokens(skeleton.config)
    # Parts first: the whole refers to them.
    for prefix, part in reversed(list(parts_of(skeleton.config))):
        _reduce_part(prefix, skeleton, head_dim, values, sizes, proportional=proportional)
        short = _short_fields(part, prefix, values, head_dim, tokens)
        values |= {prefix + name: value for name, value in short.items()}
    return values


def _all_short(config: PretrainedConfig, values: Mapping[str, int]) -> dict[str, Any]:
    """Small values of what only costs time, in every part."""
    short: dict[str, Any] = {}
    tokens = _large_tokens(config)
    for prefix, part in reversed(list(parts_of(config))):
        head_dim = values.get(f"{prefix}head_dim") or getattr(part, "head_dim", None)
        heads, hidden = getattr(part, "num_attention_heads", None), getattr(part, "hidden_size", None)
        if not head_dim and isinstance(heads, int) and isinstance(hidden, int):
            head_dim = values.get(f"{prefix}hidden_size", hidden) // heads
        fields = _short_fields(part, prefix, {**values, **short}, head_dim or 8, tokens)
        short |= {prefix + name: value for name, value in fields.items()}
    return short


def _divided(skeleton: Skeleton, factor: int) -> dict[str, int]:
    """All sizes divided by a factor, and numbers of heads as they are; none if a width would not be whole."""
    counts = {name for name, _ in head_counts(skeleton.config) if not HEAD_SIZE.search(name)}
    sizes = {
        field: growth.value
        for growth in skeleton.growths
        for field in growth.fields
        if field not in counts and growth.value > 1 and not _NO_SIZE.search(field.rpartition(".")[2])
    }
    widths = [value for value in sizes.values() if value > 40]
    if not widths or any(value % factor for value in widths) or min(widths) < 4 * factor:
        return {}
    return {field: max(1, value // factor) for field, value in sizes.items() if value % factor == 0}


def _reduce_part(
    prefix: str, skeleton: Skeleton, head_dim: int, values: dict[str, Any], sizes: dict[int, int], *, proportional: bool
) -> None:
    """Add small values of the fields of one part."""
    counts = {name: value for name, value in head_counts(skeleton.config) if _in_part(name, prefix)}
    groups = {name: value for name, value in counts.items() if re.search(r"key_value|kv", name) and "dim" not in name}
    heads = {name: v for name, v in counts.items() if name not in groups and not HEAD_SIZE.search(name)}
    grown = [growth for growth in skeleton.growths if growth.value > 1 and _in_part(growth.fields[0], prefix)]
    # Heads with rotary and other channels (DeepSeek) keep their parts.
    parted = any("rope_head_dim" in field for growth in grown for field in growth.fields)
    # Two groups of two: tracing could not see a single group.
    grouped = bool(groups) and min(groups.values()) < max(heads.values(), default=0)
    for name, value in heads.items():
        values[name] = 4 if grouped or value % 2 == 0 or _stage(name) else 3
    for name in groups:
        values[name] = 2 if grouped else next((values[head] for head in heads), 4)
    most_rates = max((len(growth.rates) for growth in skeleton.growths), default=0)
    for stage in dict.fromkeys(_stage(growth.fields[0]) for growth in grown):
        # The field that sizes most parameters is the width.
        widest = max((g for g in grown if _stage(g.fields[0]) == stage), key=lambda growth: len(growth.rates))
        if len(widest.rates) < most_rates / 8 or _NO_WIDTH.search(widest.fields[0]):
            continue
        most = max((values[name] for name in [*heads, *groups] if _stage(name) in ("", stage)), default=0)
        # Without heads to hold, no width has to grow: stages may multiply it.
        sizes.setdefault(widest.value, most * head_dim if most else min(widest.value, 4 * head_dim))
        for name in heads:
            if _stage(name) in ("", stage) and sizes[widest.value] % values[name]:
                values[name] = 4
    for growth in grown:
        for field in growth.fields:
            if field in values:
                continue
            if field.rpartition(".")[2] in _SHORT:
                values[field] = min(growth.value, _SHORT[field.rpartition(".")[2]])
            elif re.search(r"head_dim|d_kv|kv_channels", field):
                values |= {} if parted else {field: head_dim}
            elif growth.value in sizes and not _NO_WIDTH.search(field):
                values[field] = sizes[growth.value]
            elif proportional and (factor := _factor(growth.value, sizes)):
                values[field] = sizes.setdefault(growth.value, factor)
            elif growth.value > 40 and not re.search(r"position|image|vocab|expert|bucket|num_", field):
                values[field] = sizes.setdefault(growth.value, 40)


#: Sizes of what is no width, however small.
_NO_WIDTH = re.compile(r"patch|num_channels|factor|merge|ratio|image|stride|multipl")


#: Sizes of what is no width, and counts.
_NO_SIZE = re.compile(_NO_WIDTH.pattern + r"|position|vocab|expert|bucket|num_|kernel|expand|labels|(?<!d)_groups|bins")


def _factor(value: int, sizes: Mapping[int, int]) -> int:
    """The small size of a multiple of a width."""
    return next((value // width * small for width, small in sizes.items() if value > width and value % width == 0), 0)


def _in_part(path: str, prefix: str) -> bool:
    """Whether a field, or the list that it is an entry of, is in the part itself."""
    return (part_of(part_of(path)) if _stage(path) else part_of(path)) == prefix.rstrip(".")


def _stage(path: str) -> str:
    """The place in a list of stages; "" for other fields."""
    name = path.rpartition(".")[2]
    return name if name.isdigit() else ""


def _short_images(part: PretrainedConfig) -> dict[str, Any]:
    """Small images, of one size or of a size each way."""
    patch, image = getattr(part, "patch_size", None), getattr(part, "image_size", None)
    stages = _stage_count(part)
    times = 2 ** max(2, stages)
    if isinstance(patch, int) and isinstance(image, int):
        # Every stage halves the patches; the last one must hold a window.
        size = getattr(part, "window_size", None)
        window = {"window_size": min(size, 2)} if stages and isinstance(size, int) else {}
        return {"image_size": min(image, times * patch), **window}
    if isinstance(image, (list, tuple)) and all(isinstance(side, int) for side in image):
        patches = [patch] * len(image) if isinstance(patch, int) else patch
        if isinstance(patches, (list, tuple)) and len(patches) == len(image):
            small = [min(side, times * one) for side, one in zip(image, patches, strict=True)]
            return {"image_size": type(image)(small)}
    return {}


def _short_sounds(part: PretrainedConfig) -> dict[str, Any]:
    """Convolutions of a waveform that skip little of it, so that short ones do."""
    short: dict[str, Any] = {}
    strides, kernels = getattr(part, "conv_stride", None), getattr(part, "conv_kernel", None)
    if isinstance(strides, (list, tuple)) and isinstance(kernels, (list, tuple)):
        short["conv_stride"] = [min(stride, 2 if place == 0 else 1) for place, stride in enumerate(strides)]
        short["conv_kernel"] = [min(kernel, 3) for kernel in kernels]
    filters = getattr(part, "num_conv_pos_embeddings", None)
    return short | ({"num_conv_pos_embeddings": min(filters, 8)} if isinstance(filters, int) else {})


def _short_tiles(part: PretrainedConfig, side: Any) -> dict[str, Any]:
    """Tokens and tiles of images whose side has become small."""
    short: dict[str, Any] = {}
    whole, tokens = read_field(part, "vision_config.image_size"), getattr(part, "mm_tokens_per_image", None)
    if not isinstance(side, int):
        return short
    if tokens and isinstance(whole, int):
        short["mm_tokens_per_image"] = max(1, tokens * side**2 // whole**2)
    queries, patch = getattr(part, "projector_patch_to_query_dict", None), read_field(part, "vision_config.patch_size")
    if isinstance(queries, dict) and isinstance(patch, int):
        short["projector_patch_to_query_dict"] = {(side // patch) ** 2: min(4, *queries.values())}
    if getattr(part, "image_grid_pinpoints", None):
        short["image_grid_pinpoints"] = [[side, 2 * side], [2 * side, side]]
    return short


def _sections(sections: list[int], total: int) -> list[int]:
    """Sections of rotary channels (time, rows, columns) that add up to another total."""
    ends = [round(sum(sections[: place + 1]) * total / sum(sections)) for place in range(len(sections))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _head_dim(part: PretrainedConfig) -> int:
    """Channels of a head; 0 if the config does not say."""
    given, hidden, heads = (getattr(part, name, None) for name in ("head_dim", "hidden_size", "num_attention_heads"))
    if isinstance(given, int) and given:
        return given
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else 0


def _stage_count(part: PretrainedConfig) -> int:
    """Stages of a hierarchical model; 0 for others."""
    return max(
        (int(stage) + 1 for path in field_paths(part) if "." not in part_of(path) and (stage := _stage(path))),
        default=0,
    )


def _short_fields(
    part: PretrainedConfig, prefix: str, values: Mapping[str, Any], head_dim: int, tokens: Sequence[int]
) -> dict[str, Any]:
    """Small values of what only costs time in a small config.

    Args:
        tokens: those of all parts that may be beyond a small vocabulary.
    """
    short: dict[str, Any] = {}
    for field, limit in _SHORT.items():
        value = read_field(part, field)
        if isinstance(value, int):
            short[field] = min(value, limit)
    short |= _short_images(part)
    short |= _short_sounds(part)
    short |= _short_tiles(part, values.get("vision_config.image_size"))
    rotary = getattr(part, "rope_parameters", None)
    if isinstance(rotary, dict) and rotary.get("mrope_section"):
        sections, whole = rotary["mrope_section"], _head_dim(part)
        # Where a part of the channels rotates, a part of the small head's does.
        total = sum(sections) * head_dim // whole if whole else head_dim // 2
        short["rope_parameters"] = {**rotary, "mrope_section": _sections(sections, total)}
    # Texts are padded to whole windows (Longformer), which would cost more than all else.
    windows = getattr(part, "attention_window", None)
    if windows:
        short["attention_window"] = 4 if isinstance(windows, int) else [4] * len(windows)
    near = [values.get(start + name) for start in (prefix, "") for name in _VOCABULARIES]
    vocabularies = [short.get("vocab_size"), *near]
    return short | _short_tokens(part, vocabularies, tokens)


#: Where a composite's vocabulary may be.
_VOCABULARIES = ("vocab_size", "text_config.vocab_size", "thinker_config.text_config.vocab_size")
#: Tokens that begin, end or fill a text.
_SPECIAL = re.compile(r"(pad|bos|eos|sep|cls|decoder_start)_")


def _token_fields(part: PretrainedConfig, least: int) -> dict[str, int]:
    """{field: token} of the tokens from a number on."""
    return {
        name: token
        for name, token in sorted(part.to_dict().items())
        if _OF_TOKENS.search(name) and name != "vocab_size" and isinstance(token, int) and token >= least
    }


def _large_tokens(config: PretrainedConfig) -> list[int]:
    """Tokens of all parts beyond a small vocabulary, but for special ones."""
    parts = [part for _, part in parts_of(config)]
    sizes = [getattr(part, "vocab_size", None) for part in parts]
    least = min([_SHORT["vocab_size"], *(size for size in sizes if isinstance(size, int))])
    fields = [_token_fields(part, least) for part in parts]
    return sorted({token for each in fields for name, token in each.items() if not _SPECIAL.match(name)})


def _short_tokens(part: PretrainedConfig, vocabularies: list[Any], tokens: Sequence[int]) -> dict[str, Any]:
    """Special tokens within a small vocabulary; placeholders of images and sounds differ, and are one in all parts."""
    limit = next((size for size in vocabularies if isinstance(size, int)), 1 << 62)
    return {
        name: place % 4 if _SPECIAL.match(name) else (limit - 1 - tokens.index(token)) % limit
        for place, (name, token) in enumerate(_token_fields(part, limit).items())
    }
