"""One layer of a flow graph: branches beside the stream, and the sums that they meet it in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compressor.anatomy.spec import Anatomy, Axis, Kind, LinearOp, Norm, Role
from compressor.report.graph.names import Names, clear_name
from compressor.report.graph.parts import Block, CarriedValue, Inline, Item, Link, Node, SizeChange, Sum


class LayerBuilder:
    """Follows the flow of one layer.

    Args:
        anatomy: with sites, where there is a cut.
        names: what things are called.
        stack: the stack of the layer.
        layer: its path.
        tip: the map of the stream that comes in; afterwards of the one that goes out.
    """

    def __init__(self, anatomy: Anatomy, names: Names, stack: int, layer: str, tip: CarriedValue) -> None:
        self.anatomy, self.names, self.stack, self.layer, self.tip = anatomy, names, stack, layer, tip
        inside = [item for item in anatomy.flow if item.module.startswith(layer + ".")]
        self.flow: list[LinearOp | Norm] = [*inside, *names.loose(stack, layer)]
        #: {module: a name that is clear in its branch}.
        self.clear: dict[str, str] = {}
        for branch in self._branches():
            paths = {item.module: item.module.removeprefix(layer + ".") for item in branch}
            self.clear |= {module: clear_name(path, paths.values()) for module, path in paths.items()}
        self.found: list[Item] = []
        self.block = Block()
        #: Branches that are complete and wait for others that are added in the same sum.
        self.complete: list[Block] = []
        #: {linear module: the norm before it, and where that is drawn}.
        self.normed: dict[str, tuple[Node, Block]] = {}
        #: {space: what writes it, and the map on the way}.
        self.feeding: dict[str, list[tuple[Node, CarriedValue]]] = {}
        self.operations: dict[str, Node] = {}
        #: A writer whose output a norm sees before the stream does.
        self.waiting: Node | None = None

    def items(self) -> list[Item]:
        """What the stream meets in this layer, from bottom to top."""
        behind = self._norms_stand_behind()
        for place, item in enumerate(self.flow):
            later = self.flow[place + 1 :]
            if isinstance(item, LinearOp):
                self._step(item, later)
            elif not self.names.is_stream(item.space):
                self._norm_of_heads(item)
            elif self.waiting is not None:
                node = self.names.norm(item, self.clear[item.module])
                self._add(node, self.waiting, self.names.carried(item.space))
                self._meet(item, node, item.space, later)
            elif behind:
                self.found.append(Inline(self.names.norm(item, self.clear[item.module]), self.tip))
            else:
                node = self.names.norm(item, self.clear[item.module])
                self._add(node, None, self.tip)
                self.normed |= {reader: (node, self.block) for reader in item.readers}
        self._release()
        if any(link.target is None for link in self.block.links):
            self.found.append(Sum((*self.complete, self.block), self.tip))
        return self.found

    def _branches(self) -> Iterator[list[LinearOp | Norm]]:
        """The flow cut behind everything that is added to the stream."""
        branch: list[LinearOp | Norm] = []
        for item in self.flow:
            branch.append(item)
            if isinstance(item, LinearOp) and self.names.is_stream(item.writes):
                yield branch
                branch = []
        yield branch

    def _norms_stand_behind(self) -> bool:
        """Whether norms stand on the stream itself, behind the sums (BERT): then the last one puts out the layer."""
        norms = [item for item in self.flow if isinstance(item, Norm) and self.names.is_stream(item.space)]
        # Over a branch alone, a norm is what is added, not what comes out.
        waits = any(
            isinstance(i, LinearOp) and self.names.is_stream(i.writes) and i.checkpoint is None for i in self.flow
        )
        return bool(norms) and not waits and norms[-1].checkpoint == self.layer and norms[-1].checkpoint_is_output

    def _release(self) -> None:
        """No norm came behind a writer: it is a part of what the next sum adds (an expert that all tokens share)."""
        if self.waiting is not None:
            self.block.links.append(Link(self.waiting, None, self.tip))
            self.waiting = None

    def _step(self, step: LinearOp, later: Sequence[LinearOp | Norm]) -> None:
        self._release()
        norm = self._norm_before(step)
        if norm is not None and not self.block.nodes:
            # Branches that share a norm are drawn as one.
            self.block = norm[1]
        node = self.names.weight(step, self.clear[step.module])
        if self.names.is_stream(step.reads):
            self._read_stream(step, node)
        elif step.reads is not None:
            role = Role.OUTPUT if self._kind(step.reads) is Kind.ATTENTION else None
            self._add(node, self._operation(step.reads), self.names.carried(step.reads, role))
        if self.names.is_stream(step.writes):
            self._write_stream(step, node, later)
        elif step.writes is not None:
            ends = [(node, carried) for carried in self._ends(step)]
            self.feeding.setdefault(step.writes, []).extend(ends)

    def _read_stream(self, step: LinearOp, node: Node) -> None:
        if self.anatomy.tokens.get(step.module, self.stack) < self.stack:
            self.block.nodes.append(node)
            self.block.links.append(Link(None, node, self.names.carried(step.reads), memory=True))
        else:
            norm = self._norm_before(step)
            self._add(node, norm[0] if norm else None, self.names.carried(step.reads))

    def _norm_before(self, step: LinearOp) -> tuple[Node, Block] | None:
        """The norm that a module reads, or that the module reads which a weight of experts is in."""
        return self.normed.get(step.module) or self.normed.get(step.module.rpartition(".")[0])

    def _write_stream(self, step: LinearOp, node: Node, later: Sequence[LinearOp | Norm]) -> None:
        branch = self.names.carried(step.writes)
        scale = next((scale for scale in self.anatomy.scales if scale.writer == step.module), None)
        if scale is not None:
            self._add(Node(SizeChange.NORM, scale.parameter.rpartition(".")[2], (), scale.parameter), node, branch)
            node = self.block.nodes[-1]
        self.waiting = node if step.checkpoint is None else None
        if self.waiting is None:
            self._meet(step, node, step.writes, later)

    def _meet(self, item: LinearOp | Norm, node: Node, branch: str | None, later: Sequence[LinearOp | Norm]) -> None:
        """A branch is complete; the sum is, if no other branch is added in the same place."""
        self.waiting = None
        self.block.links.append(Link(node, None, self.names.carried(branch)))
        if self.block not in self.complete:
            self.complete.append(self.block)
        self.block = Block()
        if not any(_spot(other) == _spot(item) for other in later):
            self.found.append(Sum(tuple(self.complete), self.tip))
            self.tip = self.names.carried(item.joins or branch)
            self.complete = []

    def _norm_of_heads(self, norm: Norm) -> None:
        """A norm over queries or over keys: the first of the ends that has none yet."""
        ends = next(reversed(self.feeding.values()), [])
        place = next((i for i, (source, _) in enumerate(ends) if source.shape is not SizeChange.NORM), None)
        if place is not None:
            source, carried = ends[place]
            self._add(self.names.norm(norm, self.clear[norm.module]), source, carried)
            ends[place] = (self.block.nodes[-1], carried)

    def _operation(self, space: str) -> Node:
        """The node that mixes what was written to a space, made when the first reader comes."""
        if space not in self.operations:
            known, fed = self.anatomy.spaces[space], self.feeding.get(space, [])
            tip = [space]
            if known.kind is Kind.ATTENTION:
                cross = any(link.memory for link in self.block.links)
                name = "cross-attention" if cross else "attention"
                groups = f" in {known.groups} groups" if known.groups != known.heads else ""
                notes = (f"{known.heads} heads{groups} × {known.head_dim}",)
                biases = f"{space}/{Role.HEADS.value}"
                tip += [f"bias for every head: {n}" for n, axes in self.anatomy.axes.items() if _has(axes, biases)]
            else:
                gated = sum(carried.key == space for _, carried in fed) > 1
                name = "gate × activation" if gated else "activation"
                notes = (f"{known.copies} experts × {known.size}",) if known.copies > 1 else (str(known.size),)
            node = Node(SizeChange.OPERATION, name, notes, "\n".join(tip))
            self.block.nodes.append(node)
            experts = self.feeding.pop(known.experts, []) if known.experts else []
            self.block.links += [Link(source, node, carried) for source, carried in (*fed, *experts)]
            self.operations[space] = node
        return self.operations[space]

    def _ends(self, step: LinearOp) -> list[CarriedValue]:
        """The maps of what a projection writes: of fused ones several."""
        keys = [part.key for axis in self.anatomy.axes[step.weight] for part in axis.parts if part.key]
        roles = [role for role in Role if f"{step.writes}/{role.value}" in keys]
        if roles:
            return [self.names.carried(step.writes, role) for role in roles]
        return [self.names.carried(step.writes)] * max(1, keys.count(step.writes or ""))

    def _add(self, node: Node, source: Node | None, carried: CarriedValue) -> None:
        self.block.nodes.append(node)
        self.block.links.append(Link(source, node, carried))

    def _kind(self, space: str) -> Kind:
        return self.anatomy.spaces[space].kind


def _spot(item: LinearOp | Norm) -> tuple[str, bool] | None:
    return None if item.checkpoint is None else (item.checkpoint, item.checkpoint_is_output)


def _has(axes: Sequence[Axis], key: str) -> bool:
    return any(part.key == key for axis in axes for part in axis.parts)
