"""Positions of a block's nodes and edges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from compressor.report.graph.parts import Block, EdgeMap, Link, MapKind, Node, NodeShape
from compressor.report.text_width import text_width

#: Distance between rows, and between nodes of a row.
ROW_GAP, NODE_GAP = 32.0, 16.0
#: Distance between parallel edges of the same two nodes.
LANE = 58.0
#: Font sizes of names, notes, labels, and the index of a label.
NAME_SIZE, NOTE_SIZE, LABEL_SIZE, INDEX_SIZE = 12.0, 10.0, 11.0, 8.5
_MIN_WIDTH = 64.0
_LINE = 13.0

CanvasPoint = tuple[float, float]


@dataclass
class PlacedNode:
    """A placed node; y grows upwards."""

    node: Node
    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y - self.height / 2

    @property
    def top(self) -> float:
        return self.y + self.height / 2


@dataclass
class LinkRoute:
    """A placed edge; `label`: middle of its left side, None if repeated."""

    points: list[CanvasPoint]
    edge_map: EdgeMap
    label: CanvasPoint | None = None
    arrow: bool = True
    word: str = ""


def label_text(edge_map: EdgeMap) -> str:
    """A label without its index."""
    return "fixed" if edge_map.kind is MapKind.FIXED else "T"


def label_width(edge_map: EdgeMap, word: str = "") -> float:
    """Width of an edge's label."""
    plain = label_text(edge_map) + (f" {word}" if word else "")
    # Labels are bold.
    return 1.15 * (text_width(plain, LABEL_SIZE) + text_width(edge_map.index, INDEX_SIZE))


def node_size(node: Node) -> tuple[float, float]:
    """Width and height of a node."""
    if node.shape is NodeShape.SUM:
        return 20.0, 20.0
    text = max([text_width(node.text, NAME_SIZE), *(text_width(note, NOTE_SIZE) for note in node.notes)])
    minimum = _MIN_WIDTH if node.shape is NodeShape.WEIGHT else 0.0
    return max(minimum, text + 20.0), 24.0 + _LINE * len(node.notes)


class PlacedBlock:
    """A block's nodes, from (0, 0) to (width, height)."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.inner = [link for link in block.links if link.source and link.target]
        self.placed = {node: PlacedNode(node, 0.0, 0.0, *node_size(node)) for node in block.nodes}
        self._widen_for_lanes()
        rows = self._rows()
        self._place_across(rows)
        self._place_up(rows)

    @property
    def enters(self) -> list[Link]:
        """Links from outside."""
        return [link for link in self.block.links if link.source is None]

    @property
    def leaves(self) -> list[Link]:
        """Links to the stream."""
        return [link for link in self.block.links if link.target is None]

    def move(self, x: float, y: float) -> None:
        """Shift all nodes."""
        for node in self.placed.values():
            node.x += x
            node.y += y

    def routes(self) -> list[LinkRoute]:
        """The edges between its nodes."""
        routes = []
        for index, link in enumerate(self.inner):
            assert link.source is not None and link.target is not None
            source, target = self.placed[link.source], self.placed[link.target]
            before = sum(_ends(other) == _ends(link) for other in self.inner[:index])
            shift = self._shifts(link.source, link.target)[before]
            start, end = _ports(source, target)
            start, end = start + shift, end + shift
            bend = target.bottom - ROW_GAP / 2
            corners = [] if start == end else [(start, bend), (end, bend)]
            points = [(start, source.top), *corners, (end, target.bottom)]
            label = (end + 5, target.bottom - ROW_GAP / 2 + (5 if corners else 1))
            routes.append(LinkRoute(points, link.edge_map, label))
        return routes

    def _widen_for_lanes(self) -> None:
        """Widen nodes with parallel edges."""
        for link in self.inner:
            count = sum(_ends(other) == _ends(link) for other in self.inner)
            for node in (link.source, link.target):
                if node is not None and count > 1:
                    self.placed[node].width = max(self.placed[node].width, LANE * count)

    def _shifts(self, one: Node, other: Node) -> list[float]:
        """Offsets of parallel edges from the middle."""
        count = sum(_ends(link) in ((one, other), (other, one)) for link in self.inner)
        return [(lane - (count - 1) / 2) * LANE for lane in range(count)]

    def _rows(self) -> list[list[Node]]:
        """Rows with sources below targets, and memory readers as high as possible."""
        level: dict[Node, int] = {}
        for node in self.block.nodes:
            level[node] = max((level[o.source] + 1 for o in self.inner if o.target is node and o.source), default=0)
        memory = [link.target for link in self.block.links if link.memory and link.target]
        for node in memory:
            above = [level[o.target] for o in self.inner if o.source is node and o.target]
            level[node] = min(above, default=1) - 1
        rows: list[list[Node]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
        # Readers of the memory are on the left.
        for node in sorted(self.block.nodes, key=lambda node: node not in memory):
            rows[level[node]].append(node)
        return rows

    def _place_across(self, rows: list[list[Node]]) -> None:
        """Centre nodes over neighbours, the longest row first."""
        if not rows:
            self.width = 0.0
            return
        widest = max(range(len(rows)), key=lambda i: (len(rows[i]), sum(self.placed[n].width for n in rows[i])))
        right = 0.0
        for node in rows[widest]:
            placed = self.placed[node]
            placed.x = right + placed.width / 2
            right = placed.right + NODE_GAP
        for row in rows[widest + 1 :]:
            self._place_row(row, {n: [o.source for o in self.inner if o.target is n and o.source] for n in row})
        for row in reversed(rows[:widest]):
            self._place_row(row, {n: [o.target for o in self.inner if o.source is n and o.target] for n in row})
        left = min(placed.left for placed in self.placed.values())
        self.move(-left, 0.0)
        self.width = max(placed.right for placed in self.placed.values())

    def _place_row(self, row: list[Node], neighbours: Mapping[Node, Iterable[Node]]) -> None:
        for node in row:
            placed = self.placed[node]
            lanes = [self.placed[other].x + shift for other in neighbours[node] for shift in self._shifts(node, other)]
            if lanes:
                low, high = min(lanes), max(lanes)
                placed.x = (low + high) / 2
                # Wide enough for straight edges to all neighbours.
                placed.width = max(placed.width, high - low + 48 if high > low else 0.0)
        ordered = sorted(row, key=lambda node: self.placed[node].x)
        for before, node in pairwise(ordered):
            overlap = self.placed[before].right + NODE_GAP - self.placed[node].left
            self.placed[node].x += max(0.0, overlap)

    def _place_up(self, rows: list[list[Node]]) -> None:
        bottom = 0.0
        for row in rows:
            height = max(self.placed[node].height for node in row)
            for node in row:
                self.placed[node].y = bottom + height / 2
            bottom += height + ROW_GAP
        self.height = max(0.0, bottom - ROW_GAP)


def _ends(link: Link) -> tuple[Node | None, Node | None]:
    return link.source, link.target


def _ports(source: PlacedNode, target: PlacedNode) -> tuple[float, float]:
    """Horizontal start and end of an edge."""
    if target.left + 8 <= source.x <= target.right - 8 and source.width <= target.width:
        return source.x, source.x
    if source.left + 8 <= target.x <= source.right - 8:
        return target.x, target.x
    return source.x, target.x
