"""Where the nodes and edges of one block of operations go: rows from bottom to top, none on another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from compressor.report.graph.parts import Block, CarriedValue, Flows, Link, Node, SizeChange

#: Between rows, and between nodes of a row.
ROW_GAP, NODE_GAP = 32.0, 16.0
#: Between edges side by side that connect the same two nodes.
LANE = 58.0
#: Sizes of type: names, notes, labels, and the index of a label.
NAME, NOTE, LABEL, INDEX = 12.0, 10.0, 11.0, 8.5
_LEAST = 64.0
_LINE = 13.0

CanvasPoint = tuple[float, float]


@dataclass
class Placed:
    """A node in its place: its centre and its size; y grows upwards until the picture is finished."""

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
    """An edge in its place.

    Attributes:
        points: the corners of its line, from source to target.
        carried: the map on it.
        label: the middle of the left edge of its label; None where a label nearby says the same.
        arrow: whether it ends in a node.
        word: what stands behind the label.
    """

    points: list[CanvasPoint]
    carried: CarriedValue
    label: CanvasPoint | None = None
    arrow: bool = True
    word: str = ""


def text_width(text: str, size: float) -> float:
    """How wide a line of type is at most, in whatever sans-serif font there is."""
    return size * sum(0.38 if c in "iljtfr.,:;|'′ ·()" else 0.95 if c in "mwMW…→×" else 0.63 for c in text)


def label_text(carried: CarriedValue) -> str:
    """What stands before the index of a label."""
    return "fixed" if carried.flows is Flows.FIXED else "T"


def label_width(carried: CarriedValue, word: str = "") -> float:
    """How wide the label of an edge is."""
    plain = label_text(carried) + (f" {word}" if word else "")
    # Labels are bold.
    return 1.15 * (text_width(plain, LABEL) + text_width(carried.index, INDEX))


def node_size(node: Node) -> tuple[float, float]:
    """How wide and high a node is."""
    if node.shape is SizeChange.SUM:
        return 20.0, 20.0
    widest = max([text_width(node.text, NAME), *(text_width(note, NOTE) for note in node.notes)])
    least = _LEAST if node.shape is SizeChange.WEIGHT else 0.0
    return max(least, widest + 20.0), 24.0 + _LINE * len(node.notes)


class PlacedBlock:
    """Places for the operations of a block, from (0, 0) to (width, height).

    Args:
        block: its links go from earlier nodes to later ones.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.inner = [link for link in block.links if link.source and link.target]
        self.places = {node: Placed(node, 0.0, 0.0, *node_size(node)) for node in block.nodes}
        self._lanes()
        rows = self._rows()
        self._across(rows)
        self._up(rows)

    @property
    def enters(self) -> list[Link]:
        """Links from the stream, or from the memory."""
        return [link for link in self.block.links if link.source is None]

    @property
    def leaves(self) -> list[Link]:
        """Links to the stream."""
        return [link for link in self.block.links if link.target is None]

    def moved(self, x: float, y: float) -> None:
        """Put the lower left corner elsewhere."""
        for place in self.places.values():
            place.x += x
            place.y += y

    def routes(self) -> list[LinkRoute]:
        """The edges between its nodes."""
        found = []
        for place, link in enumerate(self.inner):
            assert link.source is not None and link.target is not None
            source, target = self.places[link.source], self.places[link.target]
            before = sum(_ends(other) == _ends(link) for other in self.inner[:place])
            shift = self._shifts(link.source, link.target)[before]
            start, end = _ports(source, target)
            start, end = start + shift, end + shift
            bend = target.bottom - ROW_GAP / 2
            corners = [] if start == end else [(start, bend), (end, bend)]
            points = [(start, source.top), *corners, (end, target.bottom)]
            label = (end + 5, target.bottom - ROW_GAP / 2 + (5 if corners else 1))
            found.append(LinkRoute(points, link.carried, label))
        return found

    def _lanes(self) -> None:
        """Room for edges side by side between the same two nodes."""
        for link in self.inner:
            count = sum(_ends(other) == _ends(link) for other in self.inner)
            for node in (link.source, link.target):
                if node is not None and count > 1:
                    self.places[node].width = max(self.places[node].width, LANE * count)

    def _shifts(self, one: Node, other: Node) -> list[float]:
        """How far the edges between two nodes are beside the middle."""
        count = sum(_ends(link) in ((one, other), (other, one)) for link in self.inner)
        return [(place - (count - 1) / 2) * LANE for place in range(count)]

    def _rows(self) -> list[list[Node]]:
        """Every node above all that it reads; what reads the memory directly below its reader."""
        level: dict[Node, int] = {}
        for node in self.block.nodes:
            level[node] = max((level[o.source] + 1 for o in self.inner if o.target is node and o.source), default=0)
        memory = [link.target for link in self.block.links if link.memory and link.target]
        for node in memory:
            above = [level[o.target] for o in self.inner if o.source is node and o.target]
            level[node] = min(above, default=1) - 1
        rows: list[list[Node]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
        # What comes from the memory comes from the left.
        for node in sorted(self.block.nodes, key=lambda node: node not in memory):
            rows[level[node]].append(node)
        return rows

    def _across(self, rows: list[list[Node]]) -> None:
        """The row of most nodes side by side; others over or under what they are connected with."""
        if not rows:
            self.width = 0.0
            return
        widest = max(range(len(rows)), key=lambda i: (len(rows[i]), sum(self.places[n].width for n in rows[i])))
        right = 0.0
        for node in rows[widest]:
            place = self.places[node]
            place.x = right + place.width / 2
            right = place.right + NODE_GAP
        for row in rows[widest + 1 :]:
            self._settle(row, {n: [o.source for o in self.inner if o.target is n and o.source] for n in row})
        for row in reversed(rows[:widest]):
            self._settle(row, {n: [o.target for o in self.inner if o.source is n and o.target] for n in row})
        left = min(place.left for place in self.places.values())
        self.moved(-left, 0.0)
        self.width = max(place.right for place in self.places.values())

    def _settle(self, row: list[Node], beside: Mapping[Node, Iterable[Node]]) -> None:
        for node in row:
            own = self.places[node]
            lanes = [self.places[other].x + shift for other in beside[node] for shift in self._shifts(node, other)]
            if lanes:
                low, high = min(lanes), max(lanes)
                own.x = (low + high) / 2
                # Wide enough for straight edges to all of them.
                own.width = max(own.width, high - low + 48 if high > low else 0.0)
        ordered = sorted(row, key=lambda node: self.places[node].x)
        for before, node in pairwise(ordered):
            overlap = self.places[before].right + NODE_GAP - self.places[node].left
            self.places[node].x += max(0.0, overlap)

    def _up(self, rows: list[list[Node]]) -> None:
        bottom = 0.0
        for row in rows:
            height = max(self.places[node].height for node in row)
            for node in row:
                self.places[node].y = bottom + height / 2
            bottom += height + ROW_GAP
        self.height = max(0.0, bottom - ROW_GAP)


def _ends(link: Link) -> tuple[Node | None, Node | None]:
    return link.source, link.target


def _ports(source: Placed, target: Placed) -> tuple[float, float]:
    """Where an edge leaves and enters: straight up if either node is wide enough."""
    if target.left + 8 <= source.x <= target.right - 8 and source.width <= target.width:
        return source.x, source.x
    if source.left + 8 <= target.x <= source.right - 8:
        return target.x, target.x
    return source.x, target.x
