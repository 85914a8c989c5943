"""The transportation-map flow graph: an anatomy whose residual streams are cut into sites, one map each.

In the paper (Imfeld et al., 2024, section 4.1) a map flows through the network: it is made where a linear module
writes, travels along the residual stream, and is mixed with others where a branch is added.  A global map of the
residual stream is the case in which all of a stream's sites carry the same map.  Here each place gets a key of its own,
so that the one function that applies maps needs nothing new:

    entry        what enters the first layer: embeddings write it            "residual"
    branch       what a writer adds to the stream                            "vit.layers.0.attention.o_proj/branch"
    stream       the stream behind that sum                                  "vit.layers.0.attention.o_proj/stream"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from compressor.anatomy.spec import Anatomy, Axis, Kind, LinearOp, Norm, Part, Space
from compressor.errors import UnsupportedError


@dataclass(frozen=True)
class Junction:
    """A sum of the residual stream and what branches add to it.

    Attributes:
        stack: the stack whose stream it is.
        before: key of the stream that comes in.
        branches: keys of what is added.
        after: key of the stream that goes out.
        module, is_output: whose input (or output) the sum is.
    """

    stack: int
    before: str
    branches: tuple[str, ...]
    after: str
    module: str
    is_output: bool


@dataclass(frozen=True)
class FlowGraph:
    """An anatomy with sites instead of residual spaces, and how the sites follow from each other.

    Attributes:
        anatomy: its residual axes name sites; otherwise as it was.
        entries: by stack, the site that enters its first layer.
        junctions: in the order of the forward pass.
    """

    anatomy: Anatomy
    entries: tuple[str, ...]
    junctions: tuple[Junction, ...]

    @property
    def last(self) -> tuple[str, ...]:
        """By stack, the site behind its last layer."""
        found = list(self.entries)
        for junction in self.junctions:
            found[junction.stack] = junction.after
        return tuple(found)


def flow_graph(anatomy: Anatomy) -> FlowGraph:
    """Cut the residual streams of an anatomy into sites.

    Raises:
        UnsupportedError: a parameter inside the layers meets the residual stream, but not in a linear module or a norm
            (fused experts): where it stands in the flow is not known.
    """
    return _Cutter(anatomy).cut()


_Spot = tuple[str, bool]


class _Cutter:
    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.streams = {space.name for space in anatomy.residuals}
        self.entries = tuple(stack.residual for stack in anatomy.stacks)
        #: By stack, the site that is reached.
        self.now = list(self.entries)
        self.junctions: dict[_Spot, Junction] = {}
        self.sites: dict[str, Space] = {}
        #: {parameter: {residual space: the site of its axes}}.
        self.keys: dict[str, dict[str, str]] = {}

    def cut(self) -> FlowGraph:
        if any(stack.runs > 1 for stack in self.anatomy.stacks):
            raise self._lost("one layer runs several times")
        flow: list[LinearOp | Norm] = []
        for index, item in enumerate(self.anatomy.flow):
            later = self.anatomy.flow[index + 1 :]
            flow.append(self._step(item, later) if isinstance(item, LinearOp) else self._norm(item))
            spot = _spot(item)
            # Parallel branches are added together: the stream moves on behind the last of them.
            if spot in self.junctions and not any(_spot(other) == spot for other in later):
                self.now[self.junctions[spot].stack] = self.junctions[spot].after
        for scale in self.anatomy.scales:
            self.keys[scale.parameter] = dict.fromkeys(self.streams, f"{scale.writer}/branch")
        self._check()
        axes = {
            name: tuple(_renamed(axis, self.keys.get(name, {})) for axis in own)
            for name, own in self.anatomy.axes.items()
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
                # A norm over the branch alone stands between it and the stream (sandwich norms).
                norm = next((n for n in later if isinstance(n, Norm) and n.space == step.writes), None)
                if norm is None or norm.checkpoint is None:
                    raise self._lost(f"{step.module} writes the residual stream, but where it meets it was not found")
                self._key(f"{norm.module}.weight", step.writes, writes)
                self._key(f"{norm.module}.bias", step.writes, writes)
            else:
                joins = self._meeting(step, writes, step.writes)
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
            return replace(norm, space=branch, joins=self._meeting(norm, branch, norm.space))
        site = self._at(self._stack(norm.module), norm)
        self._key(f"{norm.module}.weight", norm.space, site)
        self._key(f"{norm.module}.bias", norm.space, site)
        return replace(norm, space=site)

    def _at(self, stack: int, item: LinearOp | Norm) -> str:
        """The site that a reader sees: its own stack's, or of cross-attention the end of the stack before."""
        tokens = self.anatomy.tokens.get(item.module)
        return self.now[stack if tokens is None or tokens > stack else tokens]

    def _meeting(self, item: LinearOp | Norm, branch: str, space: str) -> str:
        """The site behind the sum that an item takes part in; parallel branches share the first one's."""
        spot, stack = _spot(item), self._stack(item.module)
        assert spot is not None
        known = self.junctions.get(spot)
        if known is None:
            after = self._new(f"{item.module}/stream", space)
            known = Junction(stack, self.now[stack], (), after, *spot)
        self.junctions[spot] = replace(known, branches=(*known.branches, branch))
        return known.after

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
            met = {part.key for axis in axes for part in axis.parts if part.key in self.streams}
            if self._inside(name) and met - set(self.keys.get(name, {})):
                raise self._lost(f"{name} meets the residual stream outside linear modules and norms")

    def _lost(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.anatomy.model_class}: {what}, so maps cannot differ along the flow; take a global residual map "
            f"(--residual global)"
        )


def _spot(item: LinearOp | Norm) -> _Spot | None:
    return None if item.checkpoint is None else (item.checkpoint, item.checkpoint_is_output)


def _renamed(axis: Axis, keys: Mapping[str, str]) -> Axis:
    if not keys:
        return axis
    return replace(axis, parts=tuple(Part(keys.get(part.key or "", part.key), part.size) for part in axis.parts))
