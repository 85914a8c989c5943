"""From watched dimensions to the table of an anatomy: named spaces, and the axes of every parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from compressor.anatomy.dims import Dim, DimForm
from compressor.anatomy.hooks import is_linear
from compressor.anatomy.spec import Axis, Kind, Part, Role, Side, Space, Stack, map_key
from compressor.anatomy.tracer import TracedDims


@dataclass(frozen=True)
class Table:
    """The labelled parameters of one model, their spaces, and the spaces' dimensions as they were watched.

    Attributes:
        spaces: {name: space}.
        axes: {parameter: axes}.
        tied: parameters that are an embedding and a weight at once.
        names: {id of a dimension: name of the space that it is}.
    """

    spaces: dict[str, Space]
    axes: dict[str, tuple[Axis, ...]]
    tied: frozenset[str]
    names: Mapping[int, str]

    def name_of(self, dim: Dim) -> str | None:
        """The space that a dimension of an activation is; None for fixed ones."""
        return self.names.get(id(dim.root))


@dataclass
class _Attention:
    """One attention, found by what its output projection reads: heads × channels."""

    layer: str
    heads: tuple[Dim, ...]
    channel: Dim
    modules: list[str] = field(default_factory=list)
    others: list[tuple[str, tuple[Dim, ...], Dim]] = field(default_factory=list)
    fixed_channels: bool = False

    @property
    def key(self) -> tuple[int, str]:
        return id(self.heads[0]), self.layer


def tabulate(model: nn.Module, watched: TracedDims, stacks: Sequence[Stack], loose: Iterable[str] = ()) -> Table:
    """Name the spaces and label every axis.

    Args:
        model: the model that was watched.
        watched: what its forward pass showed.
        stacks: its stacks of layers; each names its residual space.
        loose: parameters that the forward pass never touched, whose last dimension is a residual one.
    """
    return _Tabulation(model, watched, stacks).table(set(loose))


class _Tabulation:
    def __init__(self, model: nn.Module, watched: TracedDims, stacks: Sequence[Stack]) -> None:
        self.model, self.watched, self.stacks = model, watched, stacks
        self.layers = [layer for stack in stacks for layer in stack.layers]
        self.modules = dict(model.named_modules())
        self.names: dict[int, str] = {}
        self.spaces: dict[str, Space] = {}
        self.attentions = self._find_attentions()
        self.channels = {(id(a.channel), a.layer): a for a in self.attentions.values()}
        self.channel_roots = {id(a.channel) for a in self.attentions.values()}
        self.head_sizes = {a.channel.size for a in self.attentions.values()}

    def table(self, loose: set[str]) -> Table:
        self._name_residuals()
        self._collect_readers_of_heads()
        self._name_attentions()
        self._name_hidden(loose)
        axes = {name: tuple(self._axis(name, dim) for dim in dims) for name, dims in self.watched.parameters.items()}
        for name in loose:
            residual = self.stacks[0].residual
            axes[name] = (*axes[name][:-1], Axis((Part(residual, self.spaces[residual].size),), Side.WRITE))
        tied = frozenset(
            name for name, dims in self.watched.parameters.items() if any(d.contracted and d.looked_up for d in dims)
        )
        return Table(self.spaces, axes, tied, self.names)

    def _layer_of(self, name: str) -> str:
        return next((layer for layer in self.layers if name.startswith(layer + ".")), "")

    def _find_attentions(self) -> dict[tuple[int, str], _Attention]:
        found: dict[tuple[int, str], _Attention] = {}
        for name, dims in self.watched.parameters.items():
            for dim in dims:
                factors = [factor.root for factor in dim.factors()]
                if not dim.contracted or len(factors) < 2 or dim.all_pinned:
                    continue
                attention = _Attention(self._layer_of(name), tuple(factors[:-1]), factors[-1])
                found.setdefault(attention.key, attention).modules.append(name.rpartition(".")[0])
        return found

    def _name_residuals(self) -> None:
        roots: dict[int, tuple[Dim, str]] = {}
        for stack in self.stacks:
            root = self.watched.passages[stack.layers[0]][0].reads[-1].root
            roots.setdefault(id(root), (root, stack.residual))
        for key, (root, name) in roots.items():
            self.names[key] = name
            self.spaces[name] = Space(name, Kind.RESIDUAL, root.size)

    def _owner(self, heads: Sequence[Dim], channel: Dim, layer: str) -> _Attention | None:
        """The attention that a leaf (heads × channel) belongs to."""
        if heads:
            return self.attentions.get((id(heads[0].root), layer))
        return self.channels.get((id(channel.root), layer))

    def _leaves(self, dim: Dim) -> tuple[list[tuple[tuple[Dim, ...], Dim, int]], int]:
        """What an axis is made of: (heads, channel, size) of every part, and the heads that fused parts alternate by.

        A plain part has no heads, and itself for a channel.
        """
        root = dim.root
        if id(root) in self.channel_roots or root.form is DimForm.ATOM:
            return [((), root, root.size)], 1
        if root.form is DimForm.CONCAT:
            return [leaf for part in root.parts for leaf in self._leaves(part)[0]], 1
        factors = [factor.root for factor in root.factors()]
        if len(factors) == 1:
            return self._leaves(factors[0])
        heads, last = tuple(factors[:-1]), factors[-1]
        count = root.size // last.size
        if not self.head_sizes or last.size in self.head_sizes or last.form is not DimForm.CONCAT:
            return [(heads, last, root.size)], 1
        leaves, stretch = [], 0
        for piece in last.parts if all(part.size in self.head_sizes for part in last.parts) else last.pieces():
            stretch += piece.size
            if stretch in self.head_sizes:
                leaves.append((heads, piece.root, count * stretch))
                stretch = 0
        return leaves, count

    def _collect_readers_of_heads(self) -> None:
        """Assign every other linear end with heads to its attention; of a single group only the channels are seen."""
        for grouped in (True, False):
            for name, dims in self.watched.parameters.items():
                for dim in dims:
                    for heads, channel, _ in self._leaves(dim)[0]:
                        owner = self._owner(heads, channel, self._layer_of(name))
                        if owner is None or dim.contracted or bool(heads) is not grouped:
                            continue
                        if self._multiplies(name):
                            if name.endswith("weight"):
                                owner.others.append((name, heads, channel))
                        elif not heads:
                            owner.fixed_channels = True
            for attention in self.attentions.values():
                for _, _, channel in attention.others:
                    self.channels.setdefault((id(channel.root), attention.layer), attention)
                    self.channel_roots.add(id(channel.root))

    def _multiplies(self, name: str) -> bool:
        return is_linear(self.modules[name.rpartition(".")[0]])

    def _name_attentions(self) -> None:
        orders: dict[int, list[_Attention]] = {}
        for attention in self.attentions.values():
            orders.setdefault(id(attention.heads[0]), []).append(attention)
        names = {root: f"heads of {found[0].modules[0]}" for root, found in orders.items()}
        for attention in self.attentions.values():
            modules = [*attention.modules, *(name.rpartition(".")[0] for name, _, _ in attention.others)]
            name = _common(modules)
            if name in ("", attention.layer) or name in self.spaces:
                name = f"{attention.layer}.attention" if attention.layer else "attention"
            heads, per = _size(attention.heads), attention.channel.size
            counts = [_size(others) for _, others, _ in attention.others]
            groups = min(counts, default=heads)
            match = [channel for _, _, channel in attention.others if channel.root is not attention.channel]
            rotary = attention.fixed_channels or any(c.root.form is not DimForm.ATOM or c.root.pinned for c in match)
            shared = orders[id(attention.heads[0])]
            fixed = any(atom.pinned for head in attention.heads for atom in head.atoms())
            order = names[id(attention.heads[0])] if len(shared) > 1 else None
            self.spaces[name] = Space(
                name, Kind.ATTENTION, heads * per, heads, max(groups, 1), per, rotary=rotary,
                head_position_fixed=fixed, order=order,
            )  # fmt: skip
            attention.modules.insert(0, name)

    def _name_hidden(self, loose: set[str]) -> None:
        found: dict[int, tuple[Dim, list[str]]] = {}
        for name, dims in self.watched.parameters.items():
            for dim in dims if name not in loose else ():
                for heads, channel, _ in self._leaves(dim)[0]:
                    if heads or channel.form is not DimForm.ATOM or channel.pinned or channel.size == 1:
                        continue
                    if id(channel) not in self.names and id(channel) not in self.channel_roots:
                        found.setdefault(id(channel), (channel, []))[1].append(name)
        for attention in self.attentions.values():
            for head in attention.heads:
                found.pop(id(head), None)
        layers = [self._layer_of(names[0]) for _, names in found.values()]
        for (key, (dim, names)), layer in zip(found.items(), layers, strict=True):
            looked_up = any(d.looked_up and d.root is dim for n in names for d in self.watched.parameters[n])
            # Parameters of three dimensions hold a matrix for every expert.
            matrices = [self.watched.parameters[name] for name in names]
            copies = matrices[0][0].size if all(len(dims) == 3 for dims in matrices) else 1
            if looked_up and not layer:
                label, kind = _free("embedding", self.spaces), Kind.EMBEDDING
            elif layer and layers.count(layer) == 1:
                label, kind = f"{layer}.ffn", Kind.HIDDEN
            else:
                label, kind = _free(_common([name.rpartition(".")[0] for name in names[:1]]), self.spaces), Kind.HIDDEN
            self.names[key] = label
            self.spaces[label] = Space(label, kind, dim.size, copies=copies)

    def _axis(self, name: str, dim: Dim) -> Axis:
        side = Side.READ if dim.contracted and not dim.looked_up else Side.WRITE
        leaves, interleave = self._leaves(dim)
        parts = [self._part(name, dim, leaves, index) for index in range(len(leaves))]
        if all(part.key is None for part in parts):
            return Axis((Part(None, dim.size),), side)
        return Axis(tuple(parts), side, interleave)

    def _part(self, name: str, dim: Dim, leaves: list[tuple[tuple[Dim, ...], Dim, int]], index: int) -> Part:
        heads, channel, size = leaves[index]
        layer = self._layer_of(name)
        owner = self._owner(heads, channel, layer)
        if owner is not None and (heads or self._multiplies(name)):
            space = owner.modules[0]
            return Part(map_key(space, self._role(owner, name, dim, leaves, index)), size)
        order = self._head_order(channel, layer)
        if not heads and order is not None:
            return Part(map_key(order, Role.HEADS), size)
        return Part(self.names.get(id(channel)) if not heads else None, size)

    def _head_order(self, dim: Dim, layer: str) -> str | None:
        """The attention whose heads a plain dimension counts (a relative bias for every head)."""
        found = [a for a in self.attentions.values() if a.heads[0] is dim.root or _is_all(a.heads, dim)]
        return next((a.modules[0] for a in sorted(found, key=lambda a: a.layer != layer)), None)

    def _role(
        self, owner: _Attention, name: str, dim: Dim, leaves: list[tuple[tuple[Dim, ...], Dim, int]], index: int
    ) -> Role:
        heads, channel, _ = leaves[index]
        if dim.contracted:
            return Role.OUTPUT
        mine = [i for i, (h, c, _) in enumerate(leaves) if self._owner(h, c, owner.layer) is owner]
        if len(mine) == 3:
            return (Role.QUERY, Role.KEY, Role.VALUE)[mine.index(index)]
        if channel.root is owner.channel and any(c.root is not owner.channel for _, _, c in owner.others):
            return Role.VALUE
        # Pairs of neighbouring rotary channels look like heads, which are counted alone.
        roots = {id(head) for head in owner.heads}
        counts = [sum(id(head.root) in roots for head in own) for _, own, _ in owner.others]
        count = sum(id(head.root) in roots for head in heads)
        if count > min(counts):
            return Role.QUERY
        module = name.rpartition(".")[0]
        rivals = [n.rpartition(".")[0] for n, _, c in owner.others if c.root is channel.root]
        if count < max(counts):
            return Role.KEY
        # Queries and keys are alike: which of two is which makes no difference, so their names may say.
        wanted = sorted(dict.fromkeys(rivals), key=lambda path: ("q" not in path.rpartition(".")[2], path))
        return Role.QUERY if module == wanted[0] else Role.KEY


def _is_all(heads: Sequence[Dim], dim: Dim) -> bool:
    return [h.root for h in heads] == [f.root for f in dim.factors()]


def _size(dims: Sequence[Dim]) -> int:
    total = 1
    for dim in dims:
        total *= dim.size
    return total


def _common(paths: Sequence[str]) -> str:
    """The longest module path that all paths lie under."""
    split = [path.split(".") for path in paths]
    found = []
    for names in zip(*split, strict=False):
        if len(set(names)) > 1:
            break
        found.append(names[0])
    return ".".join(found)


def _free(name: str, taken: Iterable[str]) -> str:
    names, count = set(taken), 2
    found = name
    while found in names:
        found, count = f"{name}.{count}", count + 1
    return found
