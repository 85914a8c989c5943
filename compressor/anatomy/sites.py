"""The flow graph: residual streams cut into sites, one map each.

Maps mix at sums (Imfeld et al., 2024, section 4.1).  Keys:

    entry     first layer's input     "residual"
    branch    writer's output         "vit.layers.0.attention.o_proj/branch"
    stream    after its sum           "vit.layers.0.attention.o_proj/stream"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from compressor.anatomy.axes import Axis, Kind, Part, Space
from compressor.anatomy.spec import Anatomy, LinearOp, Norm
from compressor.errors import UnsupportedError


@dataclass(frozen=True)
class Junction:
    """A sum of the residual stream and branches.

    Attributes:
        before, branches, after: keys.
        module, is_output: whose input (output) is the sum.
    """

    stack: int
    before: str
    branches: tuple[str, ...]
    after: str
    module: str
    is_output: bool


@dataclass(frozen=True)
class FlowGraph:
    """An anatomy with sites for residual spaces.

    Attributes:
        entries: first sites, by stack.
        junctions: in call order.
    """

    anatomy: Anatomy
    entries: tuple[str, ...]
    junctions: tuple[Junction, ...]

    @property
    def last(self) -> tuple[str, ...]:
        """The last site of each stack."""
        sites = list(self.entries)
        for junction in self.junctions:
            sites[junction.stack] = junction.after
        return tuple(sites)


def flow_graph(anatomy: Anatomy) -> FlowGraph:
    """Cut residual streams into sites.

    Raises:
        UnsupportedError: other parameters use the stream (fused experts).
    """
    return _Cutter(anatomy).cut()


#: (module, whether its output is meant) of a sum.
_Place = tuple[str, bool]


class _Cutter:
    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.streams = {space.name for space in anatomy.residuals}
        self.entries = tuple(stack.residual for stack in anatomy.stacks)
        #: By stack, the current site.
        self.current = list(self.entries)
        self.junctions: dict[_Place, Junction] = {}
        self.sites: dict[str, Space] = {}
        #: {parameter: {residual space: the site of its axes}}.
        self.keys: dict[str, dict[str, str]] = {}

    def cut(self) -> FlowGraph:
        if any(stack.runs > 1 for stack in self.anatomy.stacks):
            raise self._unsupported("one layer runs several times")
        flow: list[LinearOp | Norm] = []
        for index, item in enumerate(self.anatomy.flow):
            later = self.anatomy.flow[index + 1 :]
            flow.append(self._step(item, later) if isinstance(item, LinearOp) else self._norm(item))
            place = _place(item)
            # The stream changes after the last parallel branch.
            if place in self.junctions and not any(_place(other) == place for other in later):
                self.current[self.junctions[place].stack] = self.junctions[place].after
        for scale in self.anatomy.scales:
            self.keys[scale.parameter] = dict.fromkeys(self.streams, f"{scale.writer}/branch")
        self._check()
        axes = {
            name: tuple(_renamed(axis, self.keys.get(name, {})) for axis in labelled)
            for name, labelled in self.anatomy.axes.items()
        }
        spaces = {**self.anatomy.spaces, **self.sites}
        cut = replace(self.anatomy, axes=axes, spaces=spaces, flow=tuple(flow))
        return FlowGraph(cut, self.entries, tuple(self.junctions.values()))

    def _step(self, step: LinearOp, later: Iterable[LinearOp | Norm]) -> LinearOp:
        stack = self._stack(step.module)
        reads = self._at(stack, step) if step.reads in self.streams else step.reads
        writes, joins = step.writes, None
        if step.writes in self.streams and self._inside(step.module):
            writes = self._new(f"{step.module}/branch", step.writes)
            if step.checkpoint is None:
                # A norm of the branch comes before the sum (sandwich norms).
                norm = next((n for n in later if isinstance(n, Norm) and n.space == step.writes), None)
                if norm is None or norm.checkpoint is None:
                    raise self._unsupported(
                        f"{step.module} writes the residual stream, but where it meets it was not found"
                    )
                self._key(f"{norm.module}.weight", step.writes, writes)
                self._key(f"{norm.module}.bias", step.writes, writes)
            else:
                joins = self._joined(step, writes, step.writes)
        if not step.tied:
            self._key(step.weight, step.reads, reads)
            self._key(step.weight, step.writes, writes)
            self._key(f"{step.module}.bias", step.writes, writes)
        return replace(step, reads=reads, writes=writes, joins=joins)

    def _norm(self, norm: Norm) -> Norm:
        if norm.space not in self.streams:
            return norm
        branch = self.keys.get(f"{norm.module}.weight", {}).get(norm.space)
        if branch is not None:
            return replace(norm, space=branch, joins=self._joined(norm, branch, norm.space))
        site = self._at(self._stack(norm.module), norm)
        self._key(f"{norm.module}.weight", norm.space, site)
        self._key(f"{norm.module}.bias", norm.space, site)
        return replace(norm, space=site)

    def _at(self, stack: int, item: LinearOp | Norm) -> str:
        """The site that an item reads; for cross-attention, the previous stack's last."""
        tokens = self.anatomy.tokens.get(item.module)
        return self.current[stack if tokens is None or tokens > stack else tokens]

    def _joined(self, item: LinearOp | Norm, branch: str, space: str) -> str:
        """An item's site after its sum; parallel branches share it."""
        place, stack = _place(item), self._stack(item.module)
        assert place is not None
        junction = self.junctions.get(place)
        if junction is None:
            after = self._new(f"{item.module}/stream", space)
            junction = Junction(stack, self.current[stack], (), after, *place)
        self.junctions[place] = replace(junction, branches=(*junction.branches, branch))
        return junction.after

    def _new(self, key: str, space: str) -> str:
        self.sites[key] = replace(self.anatomy.spaces[space], name=key, kind=Kind.RESIDUAL)
        return key

    def _key(self, parameter: str, space: str | None, site: str | None) -> None:
        if space in self.streams and site is not None and parameter in self.anatomy.axes:
            self.keys.setdefault(parameter, {})[space or ""] = site

    def _stack(self, module: str) -> int:
        for index, stack in enumerate(self.anatomy.stacks):
            if module.startswith(tuple(layer + "." for layer in stack.layers)):
                return index
        return self.anatomy.tokens.get(module, len(self.anatomy.stacks) - 1)

    def _inside(self, module: str) -> bool:
        return module.startswith(tuple(layer + "." for layer in self.anatomy.layers))

    def _check(self) -> None:
        for name, axes in self.anatomy.axes.items():
            streams = {part.key for axis in axes for part in axis.parts if part.key in self.streams}
            if self._inside(name) and streams - set(self.keys.get(name, {})):
                raise self._unsupported(f"{name} meets the residual stream outside linear modules and norms")

    def _unsupported(self, reason: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.anatomy.model_class}: {reason}, so maps cannot differ along the flow; take a global residual map "
            f"(--residual global)"
        )


def _place(item: LinearOp | Norm) -> _Place | None:
    return None if item.checkpoint is None else (item.checkpoint, item.checkpoint_is_output)


def _renamed(axis: Axis, keys: Mapping[str, str]) -> Axis:
    if not keys:
        return axis
    return replace(axis, parts=tuple(Part(keys.get(part.key or "", part.key), part.size) for part in axis.parts))
