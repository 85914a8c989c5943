"""Attentions of a traced model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from compressor.anatomy.axes import Role
from compressor.anatomy.dims import Dim, DimForm
from compressor.anatomy.hooks import is_linear
from compressor.anatomy.tracer import TracedDims


class Leaf(NamedTuple):
    """Part of an axis: heads × channel, `size` coordinates."""

    heads: tuple[Dim, ...]
    channel: Dim
    size: int


@dataclass
class TracedAttention:
    """One attention.

    Attributes:
        layer: path or "".
        heads, channel: dimensions of the output projections `modules`.
        writers: (weight, heads, channel) of other projections.
        fixed_channels: query or key channels have scales.
    """

    layer: str
    heads: tuple[Dim, ...]
    channel: Dim
    modules: list[str] = field(default_factory=list)
    writers: list[tuple[str, tuple[Dim, ...], Dim]] = field(default_factory=list)
    fixed_channels: bool = False
    space: str = ""

    @property
    def key(self) -> tuple[int, str]:
        return id(self.heads[0]), self.layer

    @property
    def head_count(self) -> int:
        return math.prod(head.size for head in self.heads)

    @property
    def group_count(self) -> int:
        """The fewest heads of any projection."""
        counts = [math.prod(head.size for head in heads) for _, heads, _ in self.writers]
        return max(min(counts, default=self.head_count), 1)

    @property
    def rotary(self) -> bool:
        """Whether query–key channels have fixed places."""
        matched = [channel for _, _, channel in self.writers if channel.root is not self.channel]
        return self.fixed_channels or any(c.root.form is not DimForm.ATOM or c.root.pinned for c in matched)


class Attentions:
    """All attentions of a traced model."""

    def __init__(self, model: nn.Module, traced: TracedDims, layers: Sequence[str], streams: set[int]) -> None:
        self._modules, self._traced, self._layers = dict(model.named_modules()), traced, layers
        #: Ids of residual streams: several neighbours' side by side (merged patches) are no heads.
        self._streams = streams
        self._by_heads = self._read_by_output_projections()
        self._by_channel = {(id(a.channel), a.layer): a for a in self.all}
        #: Ids of dimensions that are the channels of some attention.
        self.channel_roots = {id(a.channel) for a in self.all}
        self._head_sizes = {a.channel.size for a in self.all}

    @property
    def all(self) -> list[TracedAttention]:
        return list(self._by_heads.values())

    def layer_of(self, name: str) -> str:
        """A parameter's layer, or ""."""
        return next((layer for layer in self._layers if name.startswith(layer + ".")), "")

    def multiplies(self, parameter: str) -> bool:
        """Whether a linear module owns a parameter."""
        return is_linear(self._modules[parameter.rpartition(".")[0]])

    def _read_by_output_projections(self) -> dict[tuple[int, str], TracedAttention]:
        attentions: dict[tuple[int, str], TracedAttention] = {}
        for name, dims in self._traced.parameters.items():
            for dim in dims:
                factors = [factor.root for factor in dim.factors()]
                stream = id(dim.root) in self._streams or (factors and id(factors[-1]) in self._streams)
                if not dim.contracted or len(factors) < 2 or dim.all_pinned or stream:
                    continue
                attention = TracedAttention(self.layer_of(name), tuple(factors[:-1]), factors[-1])
                known = attentions.setdefault(attention.key, attention)
                if len(known.heads) < len(attention.heads):
                    # What reads values before they are repeated for the heads of a group sees fewer heads.
                    known.heads = attention.heads
                known.modules.append(name.rpartition(".")[0])
        return attentions

    def owner(self, heads: Sequence[Dim], channel: Dim, layer: str) -> TracedAttention | None:
        """The attention of these dimensions."""
        if heads:
            return self._by_heads.get((id(heads[0].root), layer))
        return self._by_channel.get((id(channel.root), layer))

    def leaves(self, dim: Dim) -> tuple[list[Leaf], int]:
        """An axis's parts, and the number of interleaved heads."""
        root = dim.root
        if id(root) in self.channel_roots or id(root) in self._streams or root.form is DimForm.ATOM:
            return [Leaf((), root, root.size)], 1
        if root.form is DimForm.CONCAT:
            return [leaf for part in root.parts for leaf in self.leaves(part)[0]], 1
        factors = [factor.root for factor in root.factors()]
        if len(factors) == 1:
            return self.leaves(factors[0])
        heads, last = tuple(factors[:-1]), factors[-1]
        count, sizes = root.size // last.size, self._head_sizes
        if id(last) in self._streams:
            return [Leaf((), last, last.size)] * count, 1
        if not sizes or last.size in sizes or last.form is not DimForm.CONCAT:
            return [Leaf(heads, last, root.size)], 1
        nested = [self._heads_in(part.root) for part in last.parts]
        if all(channel.size in sizes for _, channel in nested):
            # Blocks of several heads each (CodeGen), or groups of query heads, key and value (Falcon).
            return [
                Leaf((*heads, *more), channel, count * part.size)
                for (more, channel), part in zip(nested, last.parts, strict=True)
            ], count
        leaves, stretch = [], 0
        for piece in last.parts if all(part.size in sizes for part in last.parts) else last.pieces():
            stretch += piece.size
            if stretch in sizes:
                leaves.append(Leaf(heads, piece.root, count * stretch))
                stretch = 0
        return leaves, count

    def _heads_in(self, part: Dim) -> tuple[tuple[Dim, ...], Dim]:
        """Heads and channel of a piece, which may be a channel alone."""
        if part.form is not DimForm.PRODUCT or part.size in self._head_sizes:
            return (), part
        return tuple(factor.root for dim in part.parts[:-1] for factor in dim.factors()), part.parts[-1].root

    def collect_writers(self) -> None:
        """Assign axes; a single group has only channels."""
        for grouped in (True, False):
            for name, dims in self._traced.parameters.items():
                for dim in dims:
                    self._assign(name, dim, grouped=grouped)
            for attention in self.all:
                for _, _, channel in attention.writers:
                    self._by_channel.setdefault((id(channel.root), attention.layer), attention)
                    self.channel_roots.add(id(channel.root))

    def _assign(self, name: str, dim: Dim, *, grouped: bool) -> None:
        for heads, channel, _ in self.leaves(dim)[0]:
            owner = self.owner(heads, channel, self.layer_of(name))
            if owner is None or bool(heads) is not grouped:
                continue
            if not self.multiplies(name):
                # Scales of queries and keys are summed over with them.
                owner.fixed_channels |= not heads
            elif not dim.contracted and name.endswith("weight"):
                owner.writers.append((name, heads, channel))

    def counted_by(self, dim: Dim, layer: str) -> TracedAttention | None:
        """The attention whose heads a dimension counts."""
        counted = [a for a in self.all if a.heads[0] is dim.root or _is_product(dim, a.heads)]
        return next(iter(sorted(counted, key=lambda a: a.layer != layer)), None)

    def role(self, owner: TracedAttention, name: str, dim: Dim, leaves: Sequence[Leaf], index: int) -> Role:
        """The role of one part."""
        heads, channel, _ = leaves[index]
        # Neighbouring rotary pairs look like heads: count only the attention's.
        roots = {id(head) for head in owner.heads}
        count = sum(id(head.root) in roots for head in heads)
        if dim.contracted:
            return Role.OUTPUT if count == len(owner.heads) else Role.VALUE
        fused = [i for i, (h, c, _) in enumerate(leaves) if self.owner(h, c, owner.layer) is owner]
        valued = [i for i in fused if leaves[i].channel.root is owner.channel]
        if len(fused) == 3:
            # Some families have the values in the middle (CodeGen).
            last = valued[0] if len(valued) == 1 else fused[-1]
            return Role.VALUE if index == last else (Role.QUERY, Role.KEY)[[i for i in fused if i != last].index(index)]
        if channel.root is owner.channel and any(c.root is not owner.channel for _, _, c in owner.writers):
            # Gates and scales of the heads' outputs have all heads, values one for each group.
            return Role.OUTPUT if 1 < count == len(owner.heads) else Role.VALUE
        counts = [sum(id(head.root) in roots for head in written) for _, written, _ in owner.writers]
        if count > min(counts, default=count):
            return Role.QUERY
        if count < max(counts, default=count):
            return Role.KEY
        # Queries and keys are alike to the maps, so module names decide.
        alike = [n.rpartition(".")[0] for n, _, c in owner.writers if c.root is channel.root]
        ordered = sorted(dict.fromkeys(alike), key=lambda path: ("q" not in path.rpartition(".")[2], path))
        return Role.QUERY if name.rpartition(".")[0] in ordered[:1] else Role.KEY


def _is_product(dim: Dim, heads: Sequence[Dim]) -> bool:
    return [head.root for head in heads] == [factor.root for factor in dim.factors()]
