"""Labels of maps and nodes."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

from compressor.anatomy.axes import Axis, Kind, Role, Side, map_key
from compressor.anatomy.sites import FlowGraph
from compressor.anatomy.spec import Anatomy, LinearOp, Norm
from compressor.report.graph.parts import EdgeMap, MapKind, Node, NodeShape

_ROLES = {
    Role.QUERY: (MapKind.QUERY_KEY, "QK"),
    Role.KEY: (MapKind.QUERY_KEY, "QK"),
    Role.VALUE: (MapKind.VALUE, "V"),
    Role.OUTPUT: (MapKind.VALUE, "V"),
}
_KINDS = {
    Kind.EMBEDDING: (MapKind.EMBEDDING, "E"),
    Kind.EXPERTS: (MapKind.EXPERTS, "X"),
    Kind.RESIDUAL: (MapKind.STREAM, ""),
}


class Names:
    """Labels of maps and nodes; `cut` None: one map per stream."""

    def __init__(self, anatomy: Anatomy, cut: FlowGraph | None = None) -> None:
        self.anatomy, self.cut = anatomy, cut is not None
        self.layers = tuple(layer + "." for layer in anatomy.layers)
        #: {site: (kind of map, index)}.
        self.sites: dict[str, tuple[MapKind, str]] = {}
        streams = 0
        for stack in range(len(anatomy.stacks) if cut else 0):
            assert cut is not None
            if cut.entries[stack] not in self.sites:
                self.sites[cut.entries[stack]] = (MapKind.STREAM, str(streams))
                streams += 1
            for junction in (junction for junction in cut.junctions if junction.stack == stack):
                self.sites[junction.after] = (MapKind.STREAM, str(streams))
                for number, branch in enumerate(junction.branches):
                    self.sites[branch] = (MapKind.BRANCH, f"{streams}{'′' * (number + 1)}")
                streams += 1

    def edge_map(self, space: str | None, role: Role | None = None) -> EdgeMap:
        """The map of a space or role."""
        known = self.anatomy.spaces.get(space or "")
        if space is None or known is None:
            return EdgeMap(None, MapKind.FIXED)
        size = str(known.size)
        if space in self.sites:
            kind, index = self.sites[space]
        elif role is not None:
            kind, index = _ROLES[role]
            size = f"{known.groups if role in (Role.KEY, Role.VALUE) else known.heads} × {known.head_dim}"
        elif known.kind is Kind.HIDDEN:
            kind, index = MapKind.HIDDEN, "FFN" if space.startswith(self.layers) else "H"
        else:
            kind, index = _KINDS[known.kind]
        return EdgeMap(map_key(space, role), kind, index, size)

    def is_stream(self, space: str | None) -> bool:
        """Whether a space is a residual stream or its site."""
        return space is not None and space in self._streams

    @cached_property
    def _streams(self) -> frozenset[str]:
        return frozenset(space.name for space in self.anatomy.residuals)

    def clear(self, module: str) -> str:
        """The shortest unique name outside the layers."""
        return clear_name(module, [item.module for item in self.anatomy.flow])

    def weight(self, step: LinearOp, text: str = "") -> Node:
        """A linear module's node."""
        axes = self.anatomy.axes.get(step.weight, ())
        reads = next((axis for axis in axes if _holds(axis, step.reads) or (step.tied and not axis.fixed)), None)
        others = [axis for axis in self._per_expert(axes) if axis is not reads]
        # Axes with maps first.
        others.sort(key=lambda axis: axis.fixed)
        note = f"{reads.size} → {others[0].size}" if reads is not None and others else ""
        if step.gain != 1:
            note += f" · × {step.gain:g}"
        return Node(NodeShape.WEIGHT, text or self.clear(step.module), (note,) if note else (), step.module)

    def norm(self, norm: Norm, text: str = "") -> Node:
        """A norm's node."""
        return Node(NodeShape.NORM, text or self.clear(norm.module), (), norm.module)

    def stack_of(self, module: str) -> tuple[int, ...]:
        """The stack of a module; () if unknown."""
        for path in _upwards(module):
            stacks = {
                index
                for index, stack in enumerate(self.anatomy.stacks)
                if any(layer.startswith(path + ".") for layer in stack.layers)
            }
            if len(stacks) == 1:
                return tuple(stacks)
            if stacks:
                return ()
            if path in self.anatomy.tokens:
                return (self.anatomy.tokens[path],)
        return ()

    def is_aside(self, path: str) -> bool:
        """Whether a norm or embedding works on other things than tokens: no module around it ran on tokens."""
        if len(self.anatomy.stacks) > 1 or path in {step.weight for step in self.anatomy.steps}:
            return False
        outside = [p for p in _upwards(path) if not any(layer.startswith(p + ".") for layer in self.anatomy.layers)]
        return not any(p in self.anatomy.tokens for p in outside)

    def embeddings(self, stack: int) -> dict[str, list[str]]:
        """{space: parameters that write it before the layers}."""
        embeddings: dict[str, list[str]] = {}
        others = {n.module + ".weight" for n in self.anatomy.norms} | {
            s.weight for s in self.anatomy.steps if not s.tied
        }
        for name, axes in self.anatomy.axes.items():
            written = _written(axes)
            if name.startswith(self.layers) or name in others or name.endswith(".bias") or written is None:
                continue
            tied = any(step.weight == name for step in self.anatomy.steps)
            stacks = () if tied else self.stack_of(name.rpartition(".")[0])
            entries = {other.residual for other in self.anatomy.stacks} - {self.anatomy.stacks[stack].residual}
            if written not in entries and (not stacks or stack in stacks) and _read(axes) is None:
                embeddings.setdefault(written, []).append(name)
        return embeddings

    def unlisted_ops(self, stack: int, layer: str | None = None) -> list[LinearOp]:
        """Weights outside linear modules, such as convolutions; `layer` None: outside layers."""
        listed = {step.weight for step in self.anatomy.steps} | {s.parameter for s in self.anatomy.scales}
        operations = []
        for name, axes in self.anatomy.axes.items():
            owner = name.rpartition(".")[0]
            inside = name.startswith(self.layers) if layer is None else not name.startswith(layer + ".")
            if inside or name in listed or (layer is None and stack not in self.stack_of(owner)):
                continue
            matrix = self._per_expert(axes)
            read, written = _read(matrix), _written(matrix)
            if read is not None and written is not None:
                module = owner if name.endswith(".weight") else name
                operations.append(LinearOp(module, written, read, name, checkpoint=name))
        return operations

    def _per_expert(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """The axes of one expert."""
        experts = {space.name for space in self.anatomy.spaces.values() if space.kind is Kind.EXPERTS}
        return axes if len(axes) < 3 else tuple(a for a in axes if not any(part.key in experts for part in a.parts))


def clear_name(module: str, among: Collection[str]) -> str:
    """The shortest unique end of a path, if any."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        end = ".".join(parts[-count:])
        if not any(other != module and f".{other}".endswith(f".{end}") for other in among):
            return end
    return module


def _holds(axis: Axis, space: str | None) -> bool:
    return space is not None and any(
        part.key == space or (part.key or "").startswith(space + "/") for part in axis.parts
    )


def _written(axes: tuple[Axis, ...]) -> str | None:
    return _key(axes, Side.WRITE)


def _read(axes: tuple[Axis, ...]) -> str | None:
    return _key(axes, Side.READ)


def _key(axes: tuple[Axis, ...], side: Side) -> str | None:
    """The space of a side's first axis."""
    keys = (part.key for axis in axes if axis.side is side for part in axis.parts)
    return next((key for key in keys if key is not None and "/" not in key), None)


def _upwards(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
