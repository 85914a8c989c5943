"""From traced dimensions to named spaces and axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from compressor.anatomy.attentions import Attentions, Leaf, TracedAttention
from compressor.anatomy.axes import Axis, Kind, Part, Role, Side, Space, map_key
from compressor.anatomy.dims import Dim, DimForm
from compressor.anatomy.spec import Stack
from compressor.anatomy.tracer import TracedDims, stream_of_call


@dataclass(frozen=True)
class Table:
    """Spaces and axes of a model.

    Attributes:
        tied: also embeddings.
        names: {dimension id: space}.
    """

    spaces: dict[str, Space]
    axes: dict[str, tuple[Axis, ...]]
    tied: frozenset[str]
    names: Mapping[int, str]

    def name_of(self, dim: Dim) -> str | None:
        """An activation dimension's space; None if fixed."""
        return self.names.get(id(dim.root))


def tabulate(model: nn.Module, traced: TracedDims, stacks: Sequence[Stack], loose: Iterable[str] = ()) -> Table:
    """Name spaces and label axes.

    `loose` parameters are unused; their last dimension is residual.
    """
    return _Tabulation(model, traced, stacks).table(set(loose))


class _Tabulation:
    def __init__(self, model: nn.Module, traced: TracedDims, stacks: Sequence[Stack]) -> None:
        self.traced, self.stacks = traced, stacks
        layers = [layer for stack in stacks for layer in stack.layers]
        streams = {id(stream_of_call(traced.calls[stack.layers[0]][0].reads)) for stack in stacks}
        self.attentions = Attentions(model, traced, layers, streams)
        self.names: dict[int, str] = {}
        self.spaces: dict[str, Space] = {}

    def table(self, loose: set[str]) -> Table:
        self._name_residuals()
        self.attentions.collect_writers()
        self._name_attentions()
        self._name_hidden(loose)
        axes = {name: tuple(self._axis(name, dim) for dim in dims) for name, dims in self.traced.parameters.items()}
        residual = self.stacks[0].residual
        for name in loose:
            if self.traced.parameters[name][-1].size != self.spaces[residual].size:
                continue
            axes[name] = (*axes[name][:-1], Axis((Part(residual, self.spaces[residual].size),), Side.WRITE))
        tied = frozenset(
            name for name, dims in self.traced.parameters.items() if any(d.contracted and d.looked_up for d in dims)
        )
        return Table(self.spaces, axes, tied, self.names)

    def _name_residuals(self) -> None:
        roots: dict[int, tuple[Dim, str]] = {}
        for stack in self.stacks:
            root = stream_of_call(self.traced.calls[stack.layers[0]][0].reads)
            roots.setdefault(id(root), (root, stack.residual))
        for key, (root, name) in roots.items():
            self.names[key] = name
            self.spaces[name] = Space(name, Kind.RESIDUAL, root.size)

    def _name_attentions(self) -> None:
        sharing: dict[int, list[TracedAttention]] = {}
        for attention in self.attentions.all:
            sharing.setdefault(id(attention.heads[0]), []).append(attention)
        for attention in self.attentions.all:
            modules = [*attention.modules, *(name.rpartition(".")[0] for name, _, _ in attention.writers)]
            name = _common_path(modules)
            if name in ("", attention.layer) or name in self.spaces:
                name = f"{attention.layer}.attention" if attention.layer else "attention"
            alike = sharing[id(attention.heads[0])]
            self.spaces[name] = Space(
                name,
                Kind.ATTENTION,
                attention.head_count * attention.channel.size,
                heads=attention.head_count,
                groups=attention.group_count,
                head_dim=attention.channel.size,
                rotary=attention.rotary,
                head_position_fixed=any(atom.pinned for head in attention.heads for atom in head.atoms()),
                order=f"heads of {alike[0].modules[0]}" if len(alike) > 1 else None,
            )
            attention.space = name

    def _name_hidden(self, loose: set[str]) -> None:
        hidden = self._hidden_dims(loose)
        layers = [self._layer_of_all(parameters) for _, parameters in hidden]
        for (dim, parameters), layer in zip(hidden, layers, strict=True):
            dims_of = [self.traced.parameters[name] for name in parameters]
            looked_up = any(d.looked_up and d.root is dim for dims in dims_of for d in dims)
            # Parameters of three dimensions hold a matrix per expert, unless they are those of a convolution.
            stacked = all(len(dims) == 3 for dims in dims_of) and not any(map(self.attentions.multiplies, parameters))
            copies = dims_of[0][0].size if stacked else 1
            shared = not layer and bool(self.attentions.layer_of(parameters[0]))
            if (looked_up and not layer) or shared:
                name, kind = _unused("embedding", self.spaces), Kind.EMBEDDING
            elif layer and layers.count(layer) == 1:
                name, kind = f"{layer}.ffn", Kind.HIDDEN
            else:
                name, kind = _unused(parameters[0].rpartition(".")[0], self.spaces), Kind.HIDDEN
            self.names[id(dim)] = name
            self.spaces[name] = Space(name, kind, dim.size, copies=copies)

    def _layer_of_all(self, parameters: Sequence[str]) -> str:
        """The layer of all parameters; "" where several read one vector (DeBERTa's relative positions)."""
        layers = {self.attentions.layer_of(name) for name in parameters}
        return layers.pop() if len(layers) == 1 else ""

    def _hidden_dims(self, loose: set[str]) -> list[tuple[Dim, list[str]]]:
        """Interchangeable unnamed dimensions with their parameters."""
        hidden: dict[int, tuple[Dim, list[str]]] = {}
        for name, dims in self.traced.parameters.items():
            for dim in dims if name not in loose else ():
                for heads, channel, _ in self.attentions.leaves(dim)[0]:
                    if heads or channel.form is not DimForm.ATOM or channel.pinned or channel.size == 1:
                        continue
                    if id(channel) not in self.names and id(channel) not in self.attentions.channel_roots:
                        hidden.setdefault(id(channel), (channel, []))[1].append(name)
        for attention in self.attentions.all:
            for head in attention.heads:
                hidden.pop(id(head), None)
        return [(dim, names) for dim, names in hidden.values() if len(names) > 1 or self._is_used(names[0])]

    def _is_used(self, name: str) -> bool:
        """Whether a parameter is read; the size of one that is not (an untied BERT's other bias) is no space."""
        return any(dim.contracted or dim.looked_up for dim in self.traced.parameters[name])

    def _axis(self, name: str, dim: Dim) -> Axis:
        side = Side.READ if dim.contracted and not dim.looked_up else Side.WRITE
        counted = self.attentions.counted_by(dim, self.attentions.layer_of(name))
        if counted is not None:  # one value a head, also where heads are groups × heads of a group (sinks)
            return Axis((Part(map_key(counted.space, Role.HEADS), dim.size),), side)
        leaves, interleave = self.attentions.leaves(dim)
        parts = [self._part(name, dim, leaves, index) for index in range(len(leaves))]
        if all(part.key is None for part in parts):
            return Axis((Part(None, dim.size),), side)
        return Axis(tuple(parts), side, interleave)

    def _part(self, name: str, dim: Dim, leaves: Sequence[Leaf], index: int) -> Part:
        heads, channel, size = leaves[index]
        layer = self.attentions.layer_of(name)
        owner = self.attentions.owner(heads, channel, layer)
        if owner is not None and (heads or self.attentions.multiplies(name)):
            return Part(map_key(owner.space, self.attentions.role(owner, name, dim, leaves, index)), size)
        counted = self.attentions.counted_by(channel, layer)
        if not heads and counted is not None:
            return Part(map_key(counted.space, Role.HEADS), size)
        return Part(self.names.get(id(channel)) if not heads else None, size)


def _common_path(paths: Sequence[str]) -> str:
    """The longest common module path."""
    common = []
    for names in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)


def _unused(name: str, taken: Iterable[str]) -> str:
    """The name, numbered if taken."""
    names, count = set(taken), 2
    unused = name
    while unused in names:
        unused, count = f"{name}.{count}", count + 1
    return unused
