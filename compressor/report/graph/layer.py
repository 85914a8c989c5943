"""One layer of a flow graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compressor.anatomy.axes import Axis, Kind, Role
from compressor.anatomy.spec import Anatomy, LinearOp, Norm
from compressor.report.graph.names import Names, clear_name
from compressor.report.graph.parts import Block, EdgeMap, Inline, Item, Link, Node, NodeShape, Sum


class LayerBuilder:
    """Follows the flow of one layer."""

    def __init__(self, anatomy: Anatomy, names: Names, stack: int, layer: str, tip: EdgeMap) -> None:
        self.anatomy, self.names, self.stack, self.layer, self.tip = anatomy, names, stack, layer, tip
        inside = [item for item in anatomy.flow if item.module.startswith(layer + ".")]
        self.flow: list[LinearOp | Norm] = [*inside, *names.unlisted_ops(stack, layer)]
        #: {module: a name that is unique in its branch}.
        self.clear: dict[str, str] = {}
        for branch in self._branches():
            paths = {item.module: item.module.removeprefix(layer + ".") for item in branch}
            self.clear |= {module: clear_name(path, paths.values()) for module, path in paths.items()}
        self.drawn: list[Item] = []
        self.block = Block()
        #: Complete branches that wait for others of the same sum.
        self.complete: list[Block] = []
        #: {linear module: the norm before it, and the norm's block}.
        self.normed: dict[str, tuple[Node, Block]] = {}
        #: {space: its writers, and the maps on their edges}.
        self.feeding: dict[str, list[tuple[Node, EdgeMap]]] = {}
        self.operations: dict[str, Node] = {}
        #: A writer whose output passes a norm before it joins the stream.
        self.waiting: Node | None = None

    def items(self) -> list[Item]:
        """Sums and operations on the stream."""
        post_norm = self._is_post_norm()
        for index, item in enumerate(self.flow):
            later = self.flow[index + 1 :]
            if isinstance(item, LinearOp):
                self._add_linear(item, later)
            elif not self.names.is_stream(item.space):
                self._add_head_norm(item)
            elif self.waiting is not None:
                node = self.names.norm(item, self.clear[item.module])
                self._add(node, self.waiting, self.names.edge_map(item.space))
                self._join(item, node, item.space, later)
            elif post_norm:
                self.drawn.append(Inline(self.names.norm(item, self.clear[item.module]), self.tip))
            else:
                node = self.names.norm(item, self.clear[item.module])
                self._add(node, None, self.tip)
                self.normed |= {reader: (node, self.block) for reader in item.readers}
        self._release()
        if any(link.target is None for link in self.block.links):
            self.drawn.append(Sum((*self.complete, self.block), self.tip))
        return self.drawn

    def _branches(self) -> Iterator[list[LinearOp | Norm]]:
        """The flow, split after every writer."""
        branch: list[LinearOp | Norm] = []
        for item in self.flow:
            branch.append(item)
            if isinstance(item, LinearOp) and self.names.is_stream(item.writes):
                yield branch
                branch = []
        yield branch

    def _is_post_norm(self) -> bool:
        """Whether norms follow the sums (BERT)."""
        norms = [item for item in self.flow if isinstance(item, Norm) and self.names.is_stream(item.space)]
        # A norm over a branch alone is part of the branch.
        norm_in_branch = any(
            isinstance(i, LinearOp) and self.names.is_stream(i.writes) and i.checkpoint is None for i in self.flow
        )
        return (
            bool(norms) and not norm_in_branch and norms[-1].checkpoint == self.layer and norms[-1].checkpoint_is_output
        )

    def _release(self) -> None:
        """End a branch without a norm (a shared expert)."""
        if self.waiting is not None:
            self.block.links.append(Link(self.waiting, None, self.tip))
            self.waiting = None

    def _add_linear(self, step: LinearOp, later: Sequence[LinearOp | Norm]) -> None:
        self._release()
        norm = self._norm_before(step)
        if norm is not None and not self.block.nodes:
            # Branches with a common norm are drawn as one.
            self.block = norm[1]
        node = self.names.weight(step, self.clear[step.module])
        if self.names.is_stream(step.reads):
            self._read_stream(step, node)
        elif step.reads is not None:
            role = Role.OUTPUT if self._kind(step.reads) is Kind.ATTENTION else None
            self._add(node, self._operation(step.reads), self.names.edge_map(step.reads, role))
        if self.names.is_stream(step.writes):
            self._write_stream(step, node, later)
        elif step.writes is not None:
            ends = [(node, edge_map) for edge_map in self._ends(step)]
            self.feeding.setdefault(step.writes, []).extend(ends)

    def _read_stream(self, step: LinearOp, node: Node) -> None:
        if self.anatomy.tokens.get(step.module, self.stack) < self.stack:
            self.block.nodes.append(node)
            self.block.links.append(Link(None, node, self.names.edge_map(step.reads), memory=True))
        else:
            norm = self._norm_before(step)
            self._add(node, norm[0] if norm else None, self.names.edge_map(step.reads))

    def _norm_before(self, step: LinearOp) -> tuple[Node, Block] | None:
        """The norm before a module."""
        return self.normed.get(step.module) or self.normed.get(step.module.rpartition(".")[0])

    def _write_stream(self, step: LinearOp, node: Node, later: Sequence[LinearOp | Norm]) -> None:
        branch = self.names.edge_map(step.writes)
        scale = next((scale for scale in self.anatomy.scales if scale.writer == step.module), None)
        if scale is not None:
            self._add(Node(NodeShape.NORM, scale.parameter.rpartition(".")[2], (), scale.parameter), node, branch)
            node = self.block.nodes[-1]
        self.waiting = node if step.checkpoint is None else None
        if self.waiting is None:
            self._join(step, node, step.writes, later)

    def _join(self, item: LinearOp | Norm, node: Node, branch: str | None, later: Sequence[LinearOp | Norm]) -> None:
        """Complete a branch; after the last, its sum."""
        self.waiting = None
        self.block.links.append(Link(node, None, self.names.edge_map(branch)))
        if self.block not in self.complete:
            self.complete.append(self.block)
        self.block = Block()
        if not any(_checkpoint(other) == _checkpoint(item) for other in later):
            self.drawn.append(Sum(tuple(self.complete), self.tip))
            self.tip = self.names.edge_map(item.joins or branch)
            self.complete = []

    def _add_head_norm(self, norm: Norm) -> None:
        """Add a norm over queries or keys."""
        ends = next(reversed(self.feeding.values()), [])
        index = next((i for i, (source, _) in enumerate(ends) if source.shape is not NodeShape.NORM), None)
        if index is not None:
            source, edge_map = ends[index]
            self._add(self.names.norm(norm, self.clear[norm.module]), source, edge_map)
            ends[index] = (self.block.nodes[-1], edge_map)

    def _operation(self, space: str) -> Node:
        """The node of a space's operation."""
        if space not in self.operations:
            known, inputs = self.anatomy.spaces[space], self.feeding.get(space, [])
            tip = [space]
            if known.kind is Kind.ATTENTION:
                cross = any(link.memory for link in self.block.links)
                name = "cross-attention" if cross else "attention"
                groups = f" in {known.groups} groups" if known.groups != known.heads else ""
                notes = (f"{known.heads} heads{groups} × {known.head_dim}",)
                biases = f"{space}/{Role.HEADS.value}"
                tip += [f"bias for every head: {n}" for n, axes in self.anatomy.axes.items() if _has(axes, biases)]
            else:
                gated = sum(edge_map.key == space for _, edge_map in inputs) > 1
                name = "gate × activation" if gated else "activation"
                notes = (f"{known.copies} experts × {known.size}",) if known.copies > 1 else (str(known.size),)
            node = Node(NodeShape.OPERATION, name, notes, "\n".join(tip))
            self.block.nodes.append(node)
            experts = self.feeding.pop(known.experts, []) if known.experts else []
            self.block.links += [Link(source, node, edge_map) for source, edge_map in (*inputs, *experts)]
            self.operations[space] = node
        return self.operations[space]

    def _ends(self, step: LinearOp) -> list[EdgeMap]:
        """Maps on a projection's outputs."""
        keys = [part.key for axis in self.anatomy.axes[step.weight] for part in axis.parts if part.key]
        roles = [role for role in Role if f"{step.writes}/{role.value}" in keys]
        if roles:
            return [self.names.edge_map(step.writes, role) for role in roles]
        return [self.names.edge_map(step.writes)] * max(1, keys.count(step.writes or ""))

    def _add(self, node: Node, source: Node | None, edge_map: EdgeMap) -> None:
        self.block.nodes.append(node)
        self.block.links.append(Link(source, node, edge_map))

    def _kind(self, space: str) -> Kind:
        return self.anatomy.spaces[space].kind


def _checkpoint(item: LinearOp | Norm) -> tuple[str, bool] | None:
    return None if item.checkpoint is None else (item.checkpoint, item.checkpoint_is_output)


def _has(axes: Sequence[Axis], key: str) -> bool:
    return any(part.key == key for axis in axes for part in axis.parts)
