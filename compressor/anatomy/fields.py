"""The meaning of config fields (hidden, FFN, heads ...)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from transformers import PretrainedConfig

from compressor.anatomy.resize import BUILD_ERRORS, Growth, Skeleton
from compressor.anatomy.spaces import Table
from compressor.anatomy.spec import Kind
from compressor.models.config_fields import field_paths, part_of, parts_of, read_field, with_fields

#: Limits of fields that only cost time in a small config.
_SHORT = {"vocab_size": 160, "max_source_positions": 16}


class Meaning(StrEnum):
    """What a config field sizes."""

    HIDDEN = "hidden"
    FFN = "ffn"
    HEADS = "heads"
    GROUPS = "groups"
    HEAD_DIM = "head_dim"
    EMBEDDING = "embedding"
    DEPTH = "depth"
    FIXED = "fixed"


@dataclass(frozen=True)
class Sizes:
    """Meanings of fields, {attention space: field counting heads}, and {field: spaces that it sizes}."""

    meanings: Mapping[str, Meaning]
    heads: Mapping[str, str]
    groups: Mapping[str, str]
    spaces: Mapping[str, tuple[str, ...]]


def interpret(
    skeleton: Skeleton, small: PretrainedConfig, table: Table, tabulate_config: Callable[[PretrainedConfig], Table]
) -> Sizes:
    """Find fields' meanings by the spaces that they grow.

    `tabulate_config` tabulates other small configs, to tell heads from channels.
    """
    meanings = dict.fromkeys((field for layers in skeleton.lists for field in layers.fields), Meaning.DEPTH)
    unsure: list[str] = []
    sized: dict[str, tuple[str, ...]] = {}
    for growth in skeleton.growths:
        kinds = _kinds(growth, table)
        sized |= dict.fromkeys(growth.fields, tuple(sorted(_grown_spaces(growth, table))))
        if Kind.RESIDUAL in kinds:
            meaning = Meaning.HIDDEN
        elif Kind.ATTENTION in kinds:
            unsure += growth.fields
            continue
        elif (
            Kind.HIDDEN in kinds
            and not _sizes_fixed(growth, table)
            and all(_is_size(growth, small, name, table) for name in _hidden(growth, table))
        ):
            meaning = Meaning.FFN
        elif Kind.EMBEDDING in kinds:
            meaning = Meaning.EMBEDDING
        else:
            meaning = Meaning.FIXED
        meanings |= dict.fromkeys(growth.fields, meaning)
    counted = [name for name, _ in _head_counts(small) if name not in meanings and name not in unsure]
    heads: dict[str, str] = {}
    groups: dict[str, str] = {}
    for field in [*unsure, *counted]:
        changed_meaning, changed = _attention_meaning(field, small, table, tabulate_config)
        if changed_meaning is not None:
            meanings[field] = changed_meaning
            sized[field] = tuple(changed)
            if changed_meaning is Meaning.HEADS:
                heads |= dict.fromkeys(changed, field)
            elif changed_meaning is Meaning.GROUPS:
                groups |= dict.fromkeys(changed, field)
        elif field in unsure:
            meanings[field] = Meaning.FIXED
    return Sizes(meanings, heads, groups, sized)


def sized_parameters(skeleton: Skeleton, sizes: Sizes) -> set[str]:
    """Parameters that a narrower student has smaller."""
    return {name for growth in _narrowed(skeleton, sizes) for name, _ in growth.rates}


def _narrowed(skeleton: Skeleton, sizes: Sizes) -> list[Growth]:
    """What fields of width size."""
    kept = (Meaning.FIXED, Meaning.DEPTH, Meaning.EMBEDDING)
    return [g for g in skeleton.growths if sizes.meanings.get(g.fields[0], Meaning.FIXED) not in kept]


def _kinds(growth: Growth, table: Table) -> set[Kind]:
    return {table.spaces[name].kind for name in _grown_spaces(growth, table)}


def _grown_spaces(growth: Growth, table: Table) -> set[str]:
    keys = {
        part.key.partition("/")[0]
        for name, dim in growth.rates
        if name in table.axes and dim < len(table.axes[name])
        for part in table.axes[name][dim].parts
        if part.key
    }
    return keys & table.spaces.keys()


def _sizes_fixed(growth: Growth, table: Table) -> bool:
    """Whether some axis that the field sizes is pinned, so it keeps its size."""
    return any(name in table.axes and table.axes[name][dim].fixed for name, dim in growth.rates)


def _hidden(growth: Growth, table: Table) -> list[str]:
    return [name for name in _grown_spaces(growth, table) if table.spaces[name].kind is Kind.HIDDEN]


def _is_size(growth: Growth, small: PretrainedConfig, space: str, table: Table) -> bool:
    """Whether the field is a size, not a ratio (DINOv2)."""
    rates = [
        rate / len([part for part in table.axes[name][dim].parts if part.key == space])
        for (name, dim), rate in growth.rates.items()
        if name in table.axes and any(part.key == space for part in table.axes[name][dim].parts)
    ]
    return all(abs(rate - 1) < 1e-9 for rate in rates)


def _head_counts(config: PretrainedConfig) -> Iterator[tuple[str, int]]:
    """Fields that may count heads."""
    for name in field_paths(config):
        value = read_field(config, name)
        if "head" in name and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield name, value


def _attention_meaning(
    field: str, small: PretrainedConfig, table: Table, tabulate_config: Callable[[PretrainedConfig], Table]
) -> tuple[Meaning | None, list[str]]:
    """A field's attention meaning, and its spaces."""
    value = read_field(small, field)
    for resized in (2 * value, value // 2):
        if resized < 1:
            continue
        try:
            changed = tabulate_config(with_fields(small, {field: resized}))
        except BUILD_ERRORS:
            continue
        differing: dict[Meaning, list[str]] = {Meaning.HEADS: [], Meaning.GROUPS: [], Meaning.HEAD_DIM: []}
        for name, space in table.spaces.items():
            new = changed.spaces.get(name)
            if space.kind is not Kind.ATTENTION or new is None:
                continue
            if new.heads != space.heads:
                differing[Meaning.HEADS].append(name)
            elif new.groups != space.groups:
                differing[Meaning.GROUPS].append(name)
            elif new.head_dim != space.head_dim:
                differing[Meaning.HEAD_DIM].append(name)
        for meaning, names in differing.items():
            if names:
                return meaning, names
    return None, []


def reduced(skeleton: Skeleton) -> Iterator[PretrainedConfig]:
    """Small configs, smallest first; equal fields stay equal."""
    config = skeleton.config
    for head_dim in (8, 16, 32, 64):
        values: dict[str, Any] = {}
        # Equal sizes of several parts may have to be equal, as those of an encoder and what reads it.
        sizes: dict[int, int] = {}
        # Parts first: the whole refers to them.
        for prefix, part in reversed(list(parts_of(config))):
            _reduce_part(prefix, skeleton, head_dim, values, sizes)
            values |= {prefix + name: value for name, value in _short_fields(part, prefix, values, head_dim).items()}
        yield with_fields(config, values)
    yield config


def _reduce_part(prefix: str, skeleton: Skeleton, head_dim: int, values: dict[str, Any], sizes: dict[int, int]) -> None:
    """Add small values of the fields of one part."""
    counts = {name: value for name, value in _head_counts(skeleton.config) if _in_part(name, prefix)}
    groups = {name: value for name, value in counts.items() if re.search(r"key_value|kv", name) and "dim" not in name}
    heads = {name: v for name, v in counts.items() if name not in groups and not re.search(r"dim|size", name)}
    grown = [growth for growth in skeleton.growths if growth.value > 1 and _in_part(growth.fields[0], prefix)]
    # Heads with rotary and other channels (DeepSeek) keep their parts.
    parted = any("rope_head_dim" in field for growth in grown for field in growth.fields)
    # Two groups of two: tracing could not see a single group.
    grouped = bool(groups) and min(groups.values()) < max(heads.values(), default=0)
    for name, value in heads.items():
        values[name] = 4 if grouped or value % 2 == 0 or _stage(name) else 3
    for name in groups:
        values[name] = 2 if grouped else next((values[head] for head in heads), 4)
    most_rates = max((len(growth.rates) for growth in grown), default=0)
    for stage in dict.fromkeys(_stage(growth.fields[0]) for growth in grown):
        # The field that sizes most parameters is the width.
        widest = max((g for g in grown if _stage(g.fields[0]) == stage), key=lambda growth: len(growth.rates))
        if len(widest.rates) < most_rates / 4:
            continue
        most = max((values[name] for name in [*heads, *groups] if _stage(name) in ("", stage)), default=4)
        sizes.setdefault(widest.value, most * head_dim)
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
            elif growth.value in sizes and not re.search(r"patch|num_channels", field):
                values[field] = sizes[growth.value]
            elif growth.value > 40 and not re.search(r"position|image|vocab|expert|bucket|num_", field):
                values[field] = sizes.setdefault(growth.value, 40)


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


def _sections(sections: list[int], total: int) -> list[int]:
    """Sections of rotary channels (time, rows, columns) that add up to another total."""
    ends = [round(sum(sections[: place + 1]) * total / sum(sections)) for place in range(len(sections))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _stage_count(part: PretrainedConfig) -> int:
    """Stages of a hierarchical model; 0 for others."""
    return max(
        (int(stage) + 1 for path in field_paths(part) if "." not in part_of(path) and (stage := _stage(path))),
        default=0,
    )


def _short_fields(part: PretrainedConfig, prefix: str, values: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """Small values of what only costs time in a small config."""
    short: dict[str, Any] = {}
    for field, limit in _SHORT.items():
        value = read_field(part, field)
        if isinstance(value, int):
            short[field] = min(value, limit)
    short |= _short_images(part)
    seen = values.get("vision_config.image_size"), read_field(part, "vision_config.image_size")
    tokens = getattr(part, "mm_tokens_per_image", None)
    if tokens and all(isinstance(side, int) for side in seen):
        short["mm_tokens_per_image"] = max(1, tokens * seen[0] ** 2 // seen[1] ** 2)
    pinpoints, vision = getattr(part, "image_grid_pinpoints", None), values.get("vision_config.image_size")
    if pinpoints and vision:
        short["image_grid_pinpoints"] = [[vision, 2 * vision], [2 * vision, vision]]
    rotary = getattr(part, "rope_parameters", None)
    if isinstance(rotary, dict) and rotary.get("mrope_section"):
        short["rope_parameters"] = {**rotary, "mrope_section": _sections(rotary["mrope_section"], head_dim // 2)}
    # Texts are padded to whole windows (Longformer), which would cost more than all else.
    windows = getattr(part, "attention_window", None)
    if windows:
        short["attention_window"] = 4 if isinstance(windows, int) else [4] * len(windows)
    return short | _short_tokens(part, [short.get("vocab_size"), *(values.get(name) for name in _VOCABULARIES)])


#: Where a composite's vocabulary may be.
_VOCABULARIES = ("vocab_size", "text_config.vocab_size", "thinker_config.text_config.vocab_size")


def _short_tokens(part: PretrainedConfig, vocabularies: list[Any]) -> dict[str, Any]:
    """Special tokens within a small vocabulary; placeholders of images and sounds differ from all others."""
    limit = next((size for size in vocabularies if isinstance(size, int)), 1 << 62)
    ids = {
        name: token
        for name, token in sorted(part.to_dict().items())
        if name.endswith(("_token_id", "_token_index")) and isinstance(token, int) and token >= limit
    }
    return {
        name: place % 4 if re.match(r"(pad|bos|eos|sep|cls|decoder_start)_", name) else limit - 1 - place
        for place, name in enumerate(ids)
    }
