"""Data types of a flow graph, without positions and colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class MapKind(StrEnum):
    """Kind of a map, which decides its colour."""

    STREAM = "stream"
    BRANCH = "branch"
    QUERY_KEY = "query-key"
    VALUE = "value"
    HIDDEN = "hidden"
    EMBEDDING = "embedding"
    EXPERTS = "experts"
    FIXED = "fixed"


class NodeShape(StrEnum):
    """Shape of a node."""

    WEIGHT = "weight"
    NORM = "norm"
    OPERATION = "operation"
    SUM = "sum"
    GAP = "gap"
    END = "end"


@dataclass(frozen=True)
class EdgeMap:
    """The map on an edge.

    Attributes:
        key: None where nothing is transported.
        index: subscript of the T in its label.
        size: number of coordinates, such as "192" or "6 × 32".
    """

    key: str | None
    kind: MapKind
    index: str = ""
    size: str = ""


@dataclass(frozen=True, eq=False)
class Node:
    """An operation, compared by identity.

    Attributes:
        notes: smaller lines below the name.
        tip: tooltip.
    """

    shape: NodeShape
    text: str
    notes: tuple[str, ...] = ()
    tip: str = ""


@dataclass(frozen=True)
class Link:
    """An edge; without a source from the stream below, without a target to the sum above.

    Attributes:
        memory: from the end of the previous stack (cross-attention).
    """

    source: Node | None
    target: Node | None
    edge_map: EdgeMap
    memory: bool = False


@dataclass(eq=False)
class Block:
    """Operations next to the stream, in order."""

    nodes: list[Node] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)


@dataclass(frozen=True)
class Inline:
    """An operation on the stream; `before` is the map below it."""

    node: Node
    before: EdgeMap | None


@dataclass(frozen=True)
class Sum:
    """A sum of the stream and branches; the first branch is on the left."""

    blocks: tuple[Block, ...]
    before: EdgeMap


@dataclass(frozen=True)
class HeadBlock:
    """The operations of a head."""

    block: Block


Item = Inline | Sum | HeadBlock


@dataclass(frozen=True)
class GraphStage:
    """Items from bottom to top: a layer, if it has a title."""

    items: tuple[Item, ...]
    title: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Column:
    """One stack.

    Attributes:
        stages: from bottom to top.
        after: the map after its last layer, which cross-attention reads.
        aside: operations on other inputs than tokens, such as embeddings of distances.
    """

    title: str
    stages: tuple[GraphStage, ...]
    after: EdgeMap
    aside: Block


@dataclass(frozen=True)
class ModelGraph:
    """The graph of a model.

    Attributes:
        title, subtitle: the lines above the picture.
        columns: encoder and decoder, or the only stack.
        cut: whether every sum has a new map.
    """

    title: str
    subtitle: str
    columns: tuple[Column, ...]
    cut: bool

    @property
    def edge_maps(self) -> Iterator[EdgeMap]:
        """The maps on all edges."""
        for column in self.columns:
            yield from (link.edge_map for link in column.aside.links)
            for item in (item for stage in column.stages for item in stage.items):
                if not isinstance(item, HeadBlock) and item.before is not None:
                    yield item.before
                if not isinstance(item, Inline):
                    blocks = item.blocks if isinstance(item, Sum) else (item.block,)
                    yield from (link.edge_map for block in blocks for link in block.links)
