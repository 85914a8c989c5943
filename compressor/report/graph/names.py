"""What things are called in the picture of a flow graph, and which stack they belong to."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

from compressor.anatomy.sites import FlowGraph
from compressor.anatomy.spec import Anatomy, Axis, Kind, LinearOp, Norm, Role, Side, map_key
from compressor.report.graph.parts import CarriedValue, Flows, Node, SizeChange

_ROLES = {
    Role.QUERY: (Flows.QUERY_KEY, "QK"),
    Role.KEY: (Flows.QUERY_KEY, "QK"),
    Role.VALUE: (Flows.VALUE, "V"),
    Role.OUTPUT: (Flows.VALUE, "V"),
}
_KINDS = {Kind.EMBEDDING: (Flows.EMBEDDING, "E"), Kind.EXPERTS: (Flows.EXPERTS, "X"), Kind.RESIDUAL: (Flows.STREAM, "")}


class Names:
    """Labels of maps and nodes.

    Args:
        anatomy: with sites, where there is a cut.
        cut: the flow graph that the anatomy is of; None if its streams have one map each.
    """

    def __init__(self, anatomy: Anatomy, cut: FlowGraph | None = None) -> None:
        self.anatomy, self.cut = anatomy, cut is not None
        self.layers = tuple(layer + "." for layer in anatomy.layers)
        #: {site: (sort, index)}.
        self.sites: dict[str, tuple[Flows, str]] = {}
        streams = 0
        for stack in range(len(anatomy.stacks) if cut else 0):
            assert cut is not None
            if cut.entries[stack] not in self.sites:
                self.sites[cut.entries[stack]] = (Flows.STREAM, str(streams))
                streams += 1
            for junction in (junction for junction in cut.junctions if junction.stack == stack):
                self.sites[junction.after] = (Flows.STREAM, str(streams))
                for place, branch in enumerate(junction.branches):
                    self.sites[branch] = (Flows.BRANCH, f"{streams}{'′' * (place + 1)}")
                streams += 1

    def carried(self, space: str | None, role: Role | None = None) -> CarriedValue:
        """The map of a space, or of one end of an attention space."""
        found = self.anatomy.spaces.get(space or "")
        if space is None or found is None:
            return CarriedValue(None, Flows.FIXED)
        size = str(found.size)
        if space in self.sites:
            flows, index = self.sites[space]
        elif role is not None:
            flows, index = _ROLES[role]
            size = f"{found.groups if role in (Role.KEY, Role.VALUE) else found.heads} × {found.head_dim}"
        elif found.kind is Kind.HIDDEN:
            flows, index = Flows.HIDDEN, "FFN" if space.startswith(self.layers) else "H"
        else:
            flows, index = _KINDS[found.kind]
        return CarriedValue(map_key(space, role), flows, index, size)

    def is_stream(self, space: str | None) -> bool:
        """Whether a space is a residual stream, or a site of one."""
        return space is not None and space in self._streams

    @cached_property
    def _streams(self) -> frozenset[str]:
        return frozenset(space.name for space in self.anatomy.residuals)

    def clear(self, module: str) -> str:
        """The shortest name of a module outside the layers that is no other's."""
        return clear_name(module, [item.module for item in self.anatomy.flow])

    def weight(self, step: LinearOp, text: str = "") -> Node:
        """The node of a linear module, with what it turns into what; `text` is its name, else what is clear."""
        axes = self.anatomy.axes.get(step.weight, ())
        reads = next((axis for axis in axes if _holds(axis, step.reads) or (step.tied and not axis.fixed)), None)
        others = [axis for axis in self._per_expert(axes) if axis is not reads]
        # Of several, those that maps act on.
        others.sort(key=lambda axis: axis.fixed)
        note = f"{reads.size} → {others[0].size}" if reads is not None and others else ""
        if step.gain != 1:
            note += f" · × {step.gain:g}"
        return Node(SizeChange.WEIGHT, text or self.clear(step.module), (note,) if note else (), step.module)

    def norm(self, norm: Norm, text: str = "") -> Node:
        """The node of a norm; `text` as of `weight`."""
        return Node(SizeChange.NORM, text or self.clear(norm.module), (), norm.module)

    def stack_of(self, module: str) -> tuple[int, ...]:
        """The stack that a module outside the layers belongs to; none where its path does not tell."""
        for path in _upwards(module):
            held = {
                index
                for index, stack in enumerate(self.anatomy.stacks)
                if any(layer.startswith(path + ".") for layer in stack.layers)
            }
            if len(held) == 1:
                return tuple(held)
            if held:
                return ()
            if path in self.anatomy.tokens:
                return (self.anatomy.tokens[path],)
        return ()

    def is_aside(self, path: str) -> bool:
        """Whether a norm or an embedding outside the layers works on something else than the tokens of a stack.

        Then nothing of it has been seen to run on tokens, up to the module that holds the layers.
        """
        if len(self.anatomy.stacks) > 1 or path in {step.weight for step in self.anatomy.steps}:
            return False
        outside = [p for p in _upwards(path) if not any(layer.startswith(p + ".") for layer in self.anatomy.layers)]
        return not any(p in self.anatomy.tokens for p in outside)

    def embeddings(self, stack: int) -> dict[str, list[str]]:
        """{space: parameters that write it before the layers and read nothing}."""
        found: dict[str, list[str]] = {}
        taken = {n.module + ".weight" for n in self.anatomy.norms} | {
            s.weight for s in self.anatomy.steps if not s.tied
        }
        for name, axes in self.anatomy.axes.items():
            written = _written(axes)
            if name.startswith(self.layers) or name in taken or name.endswith(".bias") or written is None:
                continue
            tied = any(step.weight == name for step in self.anatomy.steps)
            own = () if tied else self.stack_of(name.rpartition(".")[0])
            entries = {other.residual for other in self.anatomy.stacks} - {self.anatomy.stacks[stack].residual}
            if written not in entries and (not own or stack in own) and _read(axes) is None:
                found.setdefault(written, []).append(name)
        return found

    def loose(self, stack: int, layer: str | None = None) -> list[LinearOp]:
        """Weights that connect two spaces, but are no linear module: convolutions, experts in one tensor.

        Args:
            stack: whose they are.
            layer: the layer that they are in; None for those outside of layers.
        """
        taken = {step.weight for step in self.anatomy.steps} | {s.parameter for s in self.anatomy.scales}
        found = []
        for name, axes in self.anatomy.axes.items():
            owner = name.rpartition(".")[0]
            inside = name.startswith(self.layers) if layer is None else not name.startswith(layer + ".")
            if inside or name in taken or (layer is None and stack not in self.stack_of(owner)):
                continue
            own = self._per_expert(axes)
            read, written = _read(own), _written(own)
            if read is not None and written is not None:
                module = owner if name.endswith(".weight") else name
                found.append(LinearOp(module, written, read, name, checkpoint=name))
        return found

    def _per_expert(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """The axes of one expert's matrix, of a tensor that holds all of them."""
        experts = {space.name for space in self.anatomy.spaces.values() if space.kind is Kind.EXPERTS}
        return axes if len(axes) < 3 else tuple(a for a in axes if not any(part.key in experts for part in a.parts))


def clear_name(module: str, among: Collection[str]) -> str:
    """The shortest end of a path that is not the end of another one; the whole path where every end is."""
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
    """The space of the first axis of a side; the ends of attention spaces are no such."""
    keys = (part.key for axis in axes if axis.side is side for part in axis.parts)
    return next((key for key in keys if key is not None and "/" not in key), None)


def _upwards(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
