"""The graph of a model from its anatomy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from compressor.anatomy.sites import flow_graph
from compressor.anatomy.spec import Anatomy, LinearOp, Norm
from compressor.errors import UnsupportedError
from compressor.report.graph.layer import LayerBuilder
from compressor.report.graph.names import Names
from compressor.report.graph.parts import (
    Block,
    Column,
    EdgeMap,
    GraphStage,
    HeadBlock,
    Inline,
    Item,
    Link,
    ModelGraph,
    Node,
    NodeShape,
    Sum,
)

#: Equal layers of stacks with more layers than this are folded.
MAX_UNFOLDED_LAYERS = 4


def build_graph(name: str, anatomy: Anatomy) -> ModelGraph:
    """The graph of a model, with a map for every sum if possible.

    Raises:
        UnsupportedError: the flow inside a layer is unknown.
    """
    for layer in anatomy.layers:
        if not any(item.module.startswith(layer + ".") for item in anatomy.flow):
            raise UnsupportedError(f"no graph of {name} can be drawn: the flow inside {layer} is not known")
    try:
        cut = flow_graph(anatomy)
    except UnsupportedError:
        names = Names(anatomy)
        subtitle = "the stream cannot be cut into sites: one map T for all of it"
    else:
        anatomy, names = cut.anatomy, Names(cut.anatomy, cut)
        subtitle = "a map for every site of the stream"
    return ModelGraph(
        f"{name}: {anatomy.model_class}",
        f"{subtitle}; the stream is {names.edge_map(anatomy.stacks[0].residual).size} wide\n"
        "Hover over an edge or its label to see the key of its map.",
        tuple(_ColumnBuilder(anatomy, names, index).column() for index in range(len(anatomy.stacks))),
        names.cut,
    )


class _ColumnBuilder:
    """Builds one stack from bottom to top."""

    def __init__(self, anatomy: Anatomy, names: Names, index: int) -> None:
        self.anatomy, self.names, self.index = anatomy, names, index
        self.stack = anatomy.stacks[index]
        self.tip = names.edge_map(self.stack.residual)
        self.aside = Block()

    def column(self) -> Column:
        before, after_layers = self._outside()
        stages = [GraphStage(tuple(self._entrance(before)))]
        folded = _folded([self._signature(layer) for layer in self.stack.layers])
        for group in folded:
            layers = [self._layer(self.stack.layers[index]) for index in group]
            if len(group) == 1:
                stages.append(layers[0])
            else:
                stages.append(GraphStage((Inline(_gap(group), _first(layers[0])),)))
        after = self.tip
        stages.append(GraphStage(tuple(self._end(after_layers))))
        prefix = self.stack.layers[0].rpartition(".")[0]
        return Column(f"{prefix} · {_layers(len(self.stack.layers))}", tuple(stages), after, self.aside)

    def _layer(self, layer: str) -> GraphStage:
        builder = LayerBuilder(self.anatomy, self.names, self.index, layer, self.tip)
        items = builder.items()
        self.tip = builder.tip
        title = f"layer {layer.rpartition('.')[2]}"
        runs = f", runs {self.stack.runs} times" if self.stack.runs > 1 else ""
        return GraphStage(tuple(items), title + runs, layer)

    def _outside(self) -> tuple[list[LinearOp | Norm], list[LinearOp | Norm]]:
        """Operations before and after the layers."""
        layers = tuple(layer + "." for layer in self.stack.layers)
        first = next(index for index, item in enumerate(self.anatomy.flow) if item.module.startswith(layers))
        outside = [(index, item) for index, item in enumerate(self.anatomy.flow) if self._belongs_here(item)]
        before = [item for index, item in outside if index < first]
        return before, [item for index, item in outside if index > first]

    def _belongs_here(self, item: LinearOp | Norm) -> bool:
        if item.module.startswith(tuple(layer + "." for layer in self.anatomy.layers)):
            return False
        stacks = self.names.stack_of(item.module)
        return self.index in (stacks or (len(self.anatomy.stacks) - 1,))

    def _entrance(self, before: Sequence[LinearOp | Norm]) -> list[Item]:
        """Embeddings, their projections and norms."""
        items: list[Item] = []
        written = self.names.embeddings(self.index)
        steps = [item for item in before if isinstance(item, LinearOp)] + self.names.unlisted_ops(self.index)
        for step in steps:
            tables = written.pop(step.reads or "", [])
            if tables or not items:
                items.append(Inline(_embedding(tables), None))
            edge_map = self.names.edge_map(step.reads)
            for norm in (n for n in before if isinstance(n, Norm) and n.space == step.reads):
                items.append(Inline(self.names.norm(norm), edge_map))
            items.append(Inline(self.names.weight(step), edge_map))
        norms = [item for item in before if isinstance(item, Norm) and item.space == self.stack.residual]
        aside_norms = [norm for norm in norms if self.names.is_aside(norm.module)]
        tables = written.pop(self.stack.residual, [])
        aside = [name for name in tables if aside_norms and self.names.is_aside(name)]
        tables = [name for name in tables if name not in aside]
        if tables and items:
            node = _embedding(tables)
            items.append(Sum((Block([node], [Link(node, None, self.tip)]),), self.tip))
        elif tables or not items:
            items.append(Inline(_embedding(tables), None))
        items += [Inline(self.names.norm(norm), self.tip) for norm in norms if norm not in aside_norms]
        if aside_norms:
            self._put_aside(aside, aside_norms)
        return items

    def _put_aside(self, tables: list[str], norms: Sequence[Norm]) -> None:
        """Add embeddings of non-tokens."""
        nodes = [_embedding(tables), *(self.names.norm(norm) for norm in norms)]
        nodes.append(Node(NodeShape.END, "queries and keys of every layer"))
        self.aside.nodes.extend(nodes)
        self.aside.links.extend(Link(source, target, self.tip) for source, target in pairwise(nodes))

    def _end(self, after_layers: Sequence[LinearOp | Norm]) -> list[Item]:
        """The last norm and the head."""
        items: list[Item] = []
        block, writers = Block(), dict[str, Node]()
        end = Node(NodeShape.END, "logits" if self.anatomy.output is None else "output")
        for item in after_layers:
            space = item.reads if isinstance(item, LinearOp) else item.space
            source = writers.get(space or "")
            if isinstance(item, Norm) and source is None:
                items.append(Inline(self.names.norm(item), self.tip))
                continue
            node = self.names.weight(item) if isinstance(item, LinearOp) else self.names.norm(item)
            block.nodes.append(node)
            block.links.append(Link(source, node, self.names.edge_map(space)))
            written = item.writes if isinstance(item, LinearOp) else item.space
            if written is not None:
                writers[written] = node
            else:
                block.links.append(Link(node, end, self.names.edge_map(None)))
        if block.nodes:
            read = {link.source for link in block.links}
            unread = [(space, node) for space, node in writers.items() if node not in read]
            block.links += [Link(node, end, self.names.edge_map(space)) for space, node in unread]
            block.nodes.append(end)
            items.append(HeadBlock(block))
        elif self.index == len(self.anatomy.stacks) - 1:
            items.append(Inline(end, self.tip))
        return items

    def _signature(self, layer: str) -> tuple[object, ...]:
        """Equal for layers that may be folded."""
        items = [item for item in self.anatomy.flow if item.module.startswith(layer + ".")]
        shapes = [
            (name.removeprefix(layer), tuple((axis.size, len(axis.parts)) for axis in axes))
            for name, axes in self.anatomy.axes.items()
            if name.startswith(layer + ".")
        ]
        order = [(type(item).__name__, item.module.removeprefix(layer), item.gain) for item in items]
        heads = [
            (space.heads, space.groups)
            for name, space in self.anatomy.spaces.items()
            if name.startswith(layer + ".")
        ]  # fmt: skip
        return (*order, *shapes, *heads)


def _folded(signatures: Sequence[object]) -> list[range]:
    """Groups of equal neighbours; the first and last layer stay alone."""
    last = len(signatures) - 1
    groups: list[range] = []
    folding = False
    for index, signature in enumerate(signatures):
        equal = last >= MAX_UNFOLDED_LAYERS and 1 < index < last and signature == signatures[index - 1]
        if equal and folding:
            groups[-1] = range(groups[-1].start, index + 1)
        else:
            groups.append(range(index, index + 1))
        folding = equal
    return groups


def _first(stage: GraphStage) -> EdgeMap:
    item = stage.items[0]
    assert not isinstance(item, HeadBlock) and item.before is not None
    return item.before


def _gap(group: range) -> Node:
    return Node(NodeShape.GAP, f"… {len(group)} more layers", (f"layers {group[0]} to {group[-1]}",))


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"


def _embedding(parameters: Sequence[str]) -> Node:
    short = [_short(name) for name in parameters]
    return Node(NodeShape.WEIGHT, "embeddings", tuple(short), "\n".join(parameters))


def _short(parameter: str) -> str:
    *_, owner, last = ("", *parameter.split("."))
    return owner if last == "weight" else last
