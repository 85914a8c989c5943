"""Labelling: with a layout chosen, every axis of every parameter gets its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn
from transformers import PretrainedConfig

from compressor.anatomy.axes import Axis, Kind, Part, Role, Side, Space, map_key
from compressor.anatomy.fields import Meaning, Sizes
from compressor.anatomy.resize import Skeleton, build_on_meta
from compressor.anatomy.trace import write_dim

RESIDUAL = "residual"


@dataclass(frozen=True)
class AttentionLayout:
    """How the linear modules of one attention divide the work.

    Attributes:
        roles: {module path below the layer: the roles its inner axis holds, in order}.
        heads_field: config field that counts heads.
        interleaved: whether fused roles alternate head by head instead of being concatenated.
        rotary: whether query–key channels must stay in place.
    """

    roles: Mapping[str, tuple[Role, ...]]
    heads_field: str
    interleaved: bool = False
    rotary: bool = False


@dataclass(frozen=True)
class Layout:
    """What resizing cannot see: attention layouts by path, and the (read, write) spaces of linears outside layers."""

    attention: Mapping[str, AttentionLayout]
    outside: Mapping[str, tuple[str, str]]

    def with_attention(self, path: str, attention: AttentionLayout) -> Layout:
        return replace(self, attention={**self.attention, path: attention})


@dataclass(frozen=True)
class Labels:
    """The labelled table of one config."""

    spaces: dict[str, Space]
    axes: dict[str, tuple[Axis, ...]]
    layers: tuple[str, ...]


class Grower:
    """Which meanings make an axis grow, asked by a parameter's name in any layer."""

    def __init__(self, skeleton: Skeleton, sizes: Sizes) -> None:
        self.skeleton = skeleton
        self._found: dict[tuple[bool, str, int], set[Meaning]] = {}
        for growth in skeleton.growths:
            for name, dim in growth.rates:
                layer, rest = skeleton.split_layer(name)
                self._found.setdefault((layer is not None, rest, dim), set()).add(sizes.meanings[growth.field])

    def meanings(self, name: str, dim: int) -> set[Meaning]:
        layer, rest = self.skeleton.split_layer(name)
        return self._found.get((layer is not None, rest, dim), set())


def attention_shape(config: PretrainedConfig, sizes: Sizes, heads_field: str) -> tuple[int, int, int]:
    """(heads, key–value groups, channels per head) of a config."""
    heads = getattr(config, heads_field)
    groups_fields = sizes.fields(Meaning.GROUPS)
    groups = getattr(config, groups_fields[0]) if groups_fields else heads
    dim_fields = sizes.fields(Meaning.HEAD_DIM)
    hidden = getattr(config, sizes.fields(Meaning.HIDDEN)[0])
    return heads, groups, getattr(config, dim_fields[0]) if dim_fields else hidden // heads


def label(config: PretrainedConfig, grower: Grower, sizes: Sizes, layout: Layout) -> Labels:
    """The axes of every parameter of `config`'s model, and the spaces that they name."""
    model = build_on_meta(config)
    hidden = getattr(config, sizes.fields(Meaning.HIDDEN)[0])
    spaces = {RESIDUAL: Space(RESIDUAL, Kind.RESIDUAL, hidden)}
    for _, write in layout.outside.values():
        if write != RESIDUAL:
            spaces[write] = Space(write, Kind.HIDDEN, hidden)
    axes: dict[str, tuple[Axis, ...]] = {}
    layers: dict[str, None] = {}
    owners = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        path, _, attribute = name.rpartition(".")
        layer, rest = grower.skeleton.split_layer(path + ".")
        prefix = f"{grower.skeleton.layer_prefix}{layer}" if layer is not None else ""
        if prefix:
            layers[prefix] = None
        sides = _sides(owners[path], attribute, parameter.dim())
        axes[name] = tuple(
            _axis(config, grower, sizes, layout, spaces, name, dim, side, size, prefix, rest.rstrip("."))
            for dim, (side, size) in enumerate(zip(sides, parameter.shape, strict=True))
        )
    return Labels(spaces, axes, tuple(layers))


def _sides(owner: nn.Module, attribute: str, dims: int) -> tuple[Side, ...]:
    """Output sides write; input sides of linear maps and convolutions read; everything else writes its channels."""
    written = write_dim(owner)
    if attribute == "weight" and dims == 2 and written is not None:
        return tuple(Side.WRITE if dim == written else Side.READ for dim in range(2))
    if attribute == "weight" and isinstance(owner, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return tuple(Side.READ if dim == 1 else Side.WRITE for dim in range(dims))
    return (Side.WRITE,) * dims


def _axis(
    config: PretrainedConfig, grower: Grower, sizes: Sizes, layout: Layout, spaces: dict[str, Space],
    name: str, dim: int, side: Side, size: int, layer: str, rest: str,
) -> Axis:  # fmt: skip
    meanings = grower.meanings(name, dim)
    if Meaning.FFN in meanings:
        width = getattr(config, sizes.fields(Meaning.FFN)[0]) or size
        space = spaces.setdefault(f"{layer}.ffn", Space(f"{layer}.ffn", Kind.HIDDEN, width))
        return Axis((Part(space.name, space.size),) * (size // space.size), side)
    for path, attention in layout.attention.items():
        roles = attention.roles.get(rest) if layer and rest.startswith(path) else None
        if roles and (side is Side.READ) == (roles == (Role.OUTPUT,)):
            return _attention_axis(config, sizes, attention, spaces, f"{layer}.{path}", roles, side)
    if Meaning.HIDDEN in meanings:
        module = name.rpartition(".")[0]
        read, write = layout.outside.get(module, (RESIDUAL, RESIDUAL))
        key = read if side is Side.READ else write
        return Axis((Part(key, spaces[RESIDUAL].size),) * (size // spaces[RESIDUAL].size), side)
    return Axis((Part(None, size),), side)


def _attention_axis(
    config: PretrainedConfig, sizes: Sizes, attention: AttentionLayout, spaces: dict[str, Space],
    name: str, roles: tuple[Role, ...], side: Side,
) -> Axis:  # fmt: skip
    heads, groups, channels = attention_shape(config, sizes, attention.heads_field)
    spaces.setdefault(name, Space(name, Kind.ATTENTION, heads * channels, heads, groups, channels, attention.rotary))
    parts = tuple(
        Part(map_key(name, role), channels * (heads if role in (Role.QUERY, Role.OUTPUT) else groups)) for role in roles
    )
    return Axis(parts, side, heads if attention.interleaved and len(roles) > 1 else 1)
