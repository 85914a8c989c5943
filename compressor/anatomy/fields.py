"""The meaning of config fields (hidden, FFN, heads ...)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from transformers import PretrainedConfig

from compressor.anatomy.axes import Axis, Kind, Side
from compressor.anatomy.resize import BUILD_ERRORS, Growth, Skeleton, shapes_of
from compressor.anatomy.spaces import Table
from compressor.errors import CertificateError
from compressor.models.configs.fields import field_paths, read_field, with_fields

#: Names of fields that give the size of a head, not the number of heads.
HEAD_SIZE = re.compile(r"dim|size|d_head")


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
    """Meanings of fields, and {attention space: field counting heads}.

    Attributes:
        spaces: {field: spaces that it sizes}.
        blocks: parameters whose parts alternate in a fixed number of blocks, however many heads there are (CodeGen).
        many_heads: a small config with more heads than that, if there are any.
    """

    meanings: Mapping[str, Meaning]
    heads: Mapping[str, str]
    groups: Mapping[str, str]
    spaces: Mapping[str, tuple[str, ...]]
    blocks: frozenset[str] = frozenset()
    many_heads: PretrainedConfig | None = None


def interpret(
    skeleton: Skeleton, small: PretrainedConfig, table: Table, tabulate_config: Callable[[PretrainedConfig], Table]
) -> Sizes:
    """Find fields' meanings by the spaces that they grow.

    `tabulate_config` tabulates other small configs, to tell heads from channels.
    """
    meanings = dict.fromkeys((field for layers in skeleton.lists for field in layers.fields), Meaning.DEPTH)
    unsure: list[str] = []
    sized: dict[str, tuple[str, ...]] = {}
    shapes = shapes_of(skeleton.config)
    for growth in skeleton.growths:
        sized |= dict.fromkeys(growth.fields, tuple(sorted(_grown_spaces(growth, table))))
        meaning = _size_meaning(growth, table, shapes)
        if meaning is None:
            unsure += growth.fields
            continue
        meanings |= dict.fromkeys(growth.fields, meaning)
    # Attention that keeps its places somewhere keeps its heads everywhere.
    stuck = {field for growth in skeleton.growths if _sizes_fixed(growth, table) for field in growth.fields}
    counted = [name for name, _ in head_counts(small) if name not in meanings and name not in unsure]
    heads: dict[str, str] = {}
    groups: dict[str, str] = {}
    blocks: frozenset[str] = frozenset()
    many_heads: PretrainedConfig | None = None
    for field in [*unsure, *counted]:
        changed_meaning, changed, resized = _attention_meaning([field], small, table, tabulate_config)
        if changed_meaning is not None:
            counts = changed_meaning in (Meaning.HEADS, Meaning.GROUPS)
            meanings[field] = Meaning.FIXED if counts and field in stuck else changed_meaning
            sized[field] = tuple(changed)
            if changed_meaning is Meaning.HEADS:
                heads |= dict.fromkeys(changed, field)
                if resized is not None and (unchanged := _blocks(table, resized[1])):
                    blocks, many_heads = blocks | unchanged, resized[0]
            elif changed_meaning is Meaning.GROUPS:
                groups |= dict.fromkeys(changed, field)
        elif field in unsure:
            meanings[field] = Meaning.FIXED
    alike = [
        name for name in counted if name not in meanings and read_field(small, name) == read_field(small, counted[0])
    ]
    if len(alike) > 1:
        # Families without groups may still have to count them as often as heads (Falcon).
        changed_meaning, changed, _ = _attention_meaning(alike, small, table, tabulate_config)
        if changed_meaning is Meaning.HEADS:
            meanings |= dict.fromkeys(alike, Meaning.FIXED if stuck.intersection(alike) else Meaning.HEADS)
            heads |= dict.fromkeys(changed, alike[0])
            sized |= dict.fromkeys(alike, tuple(changed))
    hidden = [name for name, meaning in meanings.items() if meaning is Meaning.HIDDEN]
    for field in [name for name in counted if name not in meanings and heads.keys() < _attentions(table)]:
        # Where channels have to keep their number (sections of rotation), the stream grows with the heads.
        changed_meaning, changed, resized = _attention_meaning([field, *hidden], small, table, tabulate_config)
        if changed_meaning is Meaning.HEADS and resized is not None:
            meanings[field] = Meaning.FIXED if field in stuck else Meaning.HEADS
            heads |= dict.fromkeys(changed, field)
            sized[field] = tuple(changed)
            if unchanged := _blocks(table, resized[1]):
                blocks, many_heads = blocks | unchanged, resized[0]
    _check_counted(skeleton.config, small, table, heads)
    return Sizes(meanings, heads, groups, sized, blocks, many_heads)


def _size_meaning(growth: Growth, table: Table, shapes: Mapping[str, tuple[int, ...]]) -> Meaning | None:
    """What fields that size parameters mean; None if heads or channels."""
    kinds = _kinds(growth, table)
    if Kind.RESIDUAL in kinds:
        if any(table.spaces[name].placed for name in _grown_spaces(growth, table)):
            return Meaning.FIXED
        return Meaning.HIDDEN if _is_linear(growth, shapes, table) else Meaning.FIXED
    if Kind.ATTENTION in kinds:
        return None
    sizes_units = Kind.HIDDEN in kinds and not _sizes_fixed(growth, table)
    if sizes_units and _is_size(growth, _hidden(growth, table), table):
        # What nothing reads is an answer (embeddings that are compared): whoever uses it knows its size.
        return Meaning.FFN if _are_read(_hidden(growth, table), table) else Meaning.FIXED
    return Meaning.EMBEDDING if Kind.EMBEDDING in kinds else Meaning.FIXED


def _attentions(table: Table) -> set[str]:
    return {name for name, space in table.spaces.items() if space.kind is Kind.ATTENTION}


def _check_counted(full: PretrainedConfig, small: PretrainedConfig, table: Table, heads: Mapping[str, str]) -> None:
    """Refuse attention that has other heads in the small config and no field that is known to count them."""
    counts = [(name, value) for name, value in head_counts(small) if not HEAD_SIZE.search(name)]
    changed = {value for name, value in counts if read_field(full, name) != value}
    for name, space in table.spaces.items():
        if space.kind is Kind.ATTENTION and name not in heads and space.heads in changed:
            raise CertificateError(
                f"{full.model_type}: no field of the config could be shown to count the heads of {name}, so it is not "
                f"known how many there are; nothing was touched"
            )


def sized_parameters(skeleton: Skeleton, sizes: Sizes) -> set[str]:
    """Parameters that a narrower student has smaller."""
    return {name for growth in narrowing(skeleton, sizes) for name, _ in growth.rates}


def narrowing(skeleton: Skeleton, sizes: Sizes) -> list[Growth]:
    """What fields of width size."""
    kept = (Meaning.FIXED, Meaning.DEPTH, Meaning.EMBEDDING)
    return [g for g in skeleton.growths if sizes.meanings.get(g.fields[0], Meaning.FIXED) not in kept]


def _kinds(growth: Growth, table: Table) -> set[Kind]:
    return {table.spaces[name].kind for name in _grown_spaces(growth, table)}


def grown_spaces(growth: Growth, axes: Mapping[str, Sequence[Axis]], spaces: Collection[str]) -> set[str]:
    """Spaces that a field sizes."""
    keys = {
        part.key.partition("/")[0]
        for name, dim in growth.rates
        if name in axes and dim < len(axes[name])
        for part in axes[name][dim].parts
        if part.key
    }
    return keys & set(spaces)


def _grown_spaces(growth: Growth, table: Table) -> set[str]:
    return grown_spaces(growth, table.axes, table.spaces)


def _sizes_fixed(growth: Growth, table: Table) -> bool:
    """Whether some axis that the field sizes is pinned, so it keeps its size."""
    return any(name in table.axes and table.axes[name][dim].fixed for name, dim in growth.rates)


def _is_linear(growth: Growth, shapes: Mapping[str, tuple[int, ...]], table: Table) -> bool:
    """Whether a stream grows with the field, and not the square of a number of patches that stand side by side."""
    return all(
        abs(rate * growth.value - shapes[name][dim]) < 1e-6 * shapes[name][dim]
        for (name, dim), rate in growth.rates.items()
        if name in table.axes and _is_stream(table.axes[name][dim], table)
    )


def _is_stream(axis: Axis, table: Table) -> bool:
    """Whether an axis is several neighbours of one residual stream side by side."""
    keys = {part.key or "" for part in axis.parts}
    spaces = [table.spaces[key] for key in keys if key in table.spaces]
    return len(axis.parts) > 1 and len(keys) == len(spaces) == 1 and spaces[0].kind is Kind.RESIDUAL


def _hidden(growth: Growth, table: Table) -> list[str]:
    return [name for name in _grown_spaces(growth, table) if table.spaces[name].kind is Kind.HIDDEN]


def _are_read(spaces: Collection[str], table: Table) -> bool:
    """Whether some parameter reads one of these spaces."""
    return any(
        axis.side is Side.READ and any(part.key in spaces for part in axis.parts)
        for axes in table.axes.values()
        for axis in axes
    )


def _is_size(growth: Growth, spaces: Collection[str], table: Table) -> bool:
    """Whether the field is the size of all these spaces, not a ratio (DINOv2)."""
    parts = {
        place: sum(part.key in spaces for part in table.axes[place[0]][place[1]].parts)
        for place in growth.rates
        if place[0] in table.axes
    }
    # A reader of several such spaces side by side grows by as many (SegFormer's decoder).
    return all(abs(growth.rates[place] / count - 1) < 1e-9 for place, count in parts.items() if count)


def head_counts(config: PretrainedConfig) -> Iterator[tuple[str, int]]:
    """Fields that may count heads."""
    for name in field_paths(config):
        value = read_field(config, name)
        if "head" in name and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield name, value


def _attention_meaning(
    fields: Sequence[str], small: PretrainedConfig, table: Table, tabulate_config: Callable[[PretrainedConfig], Table]
) -> tuple[Meaning | None, list[str], tuple[PretrainedConfig, Table] | None]:
    """Attention meaning of a field (or of equal ones), its spaces, and the config and table that showed it."""
    values = {field: int(read_field(small, field)) for field in fields}
    for resized in ({f: 2 * v for f, v in values.items()}, {f: v // 2 for f, v in values.items()}):
        if min(resized.values()) < 1:
            continue
        config = with_fields(small, resized)
        try:
            changed = tabulate_config(config)
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
                return meaning, names, (config, changed)
    return None, [], None


def _blocks(table: Table, changed: Table) -> frozenset[str]:
    """Parameters whose parts alternate as often as before, though the heads are others."""
    return frozenset(
        name
        for name, axes in table.axes.items()
        for axis, other in zip(axes, changed.axes.get(name, ()), strict=False)
        if axis.interleave > 1 and axis.interleave == other.interleave
    )
