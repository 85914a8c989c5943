"""What a flow graph is drawn from: operations, and the maps that flow between them.  No places, no colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class Flows(StrEnum):
    """What sort of map an edge carries; edges of one sort have one colour."""

    STREAM = "stream"
    BRANCH = "branch"
    QUERY_KEY = "query-key"
    VALUE = "value"
    HIDDEN = "hidden"
    EMBEDDING = "embedding"
    EXPERTS = "experts"
    FIXED = "fixed"


class SizeChange(StrEnum):
    """How a node is drawn."""

    WEIGHT = "weight"
    NORM = "norm"
    OPERATION = "operation"
    SUM = "sum"
    GAP = "gap"
    END = "end"


@dataclass(frozen=True)
class CarriedValue:
    """The map on an edge.

    Attributes:
        key: its key; None where nothing is transported.
        flows: what sort of map.
        index: what its label says below the T.
        size: how many coordinates, such as "192" or "6 × 32".
    """

    key: str | None
    flows: Flows
    index: str = ""
    size: str = ""


@dataclass(frozen=True, eq=False)
class Node:
    """An operation; two of the same look are still two.

    Attributes:
        shape: how it is drawn.
        text: its name.
        notes: smaller lines below the name.
        tip: what a pointer that rests on it is told.
    """

    shape: SizeChange
    text: str
    notes: tuple[str, ...] = ()
    tip: str = ""


@dataclass(frozen=True)
class Link:
    """An edge; no source is the stream below, no target the sum above.

    Attributes:
        source, target: its ends.
        carried: the map on it.
        memory: it comes from the end of the stack before (cross-attention).
    """

    source: Node | None
    target: Node | None
    carried: CarriedValue
    memory: bool = False


@dataclass(eq=False)
class Block:
    """Operations beside the stream, each behind those that it reads."""

    nodes: list[Node] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)


@dataclass(frozen=True)
class Inline:
    """An operation on the stream itself; `before` is None at the very beginning."""

    node: Node
    before: CarriedValue | None


@dataclass(frozen=True)
class Sum:
    """A sum of the stream and branches; the first branch is left of the stream, others right."""

    blocks: tuple[Block, ...]
    before: CarriedValue


@dataclass(frozen=True)
class Crown:
    """What a head makes of the end of the stream."""

    block: Block


Item = Inline | Sum | Crown


@dataclass(frozen=True)
class GraphStage:
    """Items from bottom to top: a layer, which has a title, or what comes before and behind the layers."""

    items: tuple[Item, ...]
    title: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Column:
    """One stack.

    Attributes:
        title: what it is.
        stages: from bottom to top.
        after: the map behind its last layer, which cross-attention reads.
        aside: what layers read that is no token of the stream, such as embeddings of distances.
    """

    title: str
    stages: tuple[GraphStage, ...]
    after: CarriedValue
    aside: Block


@dataclass(frozen=True)
class ModelGraph:
    """A model as it is drawn.

    Attributes:
        title, subtitle: the lines above the picture.
        columns: encoder and decoder, or the only stack.
        cut: whether the stream has a map of its own behind every sum.
    """

    title: str
    subtitle: str
    columns: tuple[Column, ...]
    cut: bool

    @property
    def carried(self) -> Iterator[CarriedValue]:
        """The maps on all edges."""
        for column in self.columns:
            yield from (link.carried for link in column.aside.links)
            for item in (item for stage in column.stages for item in stage.items):
                if not isinstance(item, Crown) and item.before is not None:
                    yield item.before
                if not isinstance(item, Inline):
                    blocks = item.blocks if isinstance(item, Sum) else (item.block,)
                    yield from (link.carried for block in blocks for link in block.links)
