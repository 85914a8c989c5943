"""Data types of a flow graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class MapKind(StrEnum):
    """Kind of a map, and so its colour."""

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
    """The map on an edge; `key` None without transport."""

    key: str | None
    kind: MapKind
    index: str = ""
    size: str = ""


@dataclass(frozen=True, eq=False)
class Node:
    """An operation, compared by identity."""

    shape: NodeShape
    text: str
    notes: tuple[str, ...] = ()
    tip: str = ""


@dataclass(frozen=True)
class Link:
    """An edge; without source from the stream, without target to the sum; `memory`: from the encoder."""

    source: Node | None
    target: Node | None
    edge_map: EdgeMap
    memory: bool = False


@dataclass(eq=False)
class Block:
    """Operations next to the stream."""

    nodes: list[Node] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)


@dataclass(frozen=True)
class Inline:
    """An operation on the stream; `before`: the map below it."""

    node: Node
    before: EdgeMap | None


@dataclass(frozen=True)
class Sum:
    """A sum of stream and branches; the first is left."""

    blocks: tuple[Block, ...]
    before: EdgeMap


@dataclass(frozen=True)
class HeadBlock:
    """The operations of a head."""

    block: Block


Item = Inline | Sum | HeadBlock


@dataclass(frozen=True)
class GraphStage:
    """Items from bottom to top; a layer has a title."""

    items: tuple[Item, ...]
    title: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Column:
    """One stack; `after`: map for cross-attention; `aside`: operations on non-tokens."""

    title: str
    stages: tuple[GraphStage, ...]
    after: EdgeMap
    aside: Block


@dataclass(frozen=True)
class ModelGraph:
    """The graph of a model; `cut`: a new map after every sum."""

    title: str
    subtitle: str
    columns: tuple[Column, ...]
    cut: bool
