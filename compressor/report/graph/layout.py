"""Positions of a flow graph: a column per stack."""

from __future__ import annotations

from dataclasses import dataclass, field

from compressor.report.graph.parts import Column, EdgeMap, HeadBlock, Inline, Item, ModelGraph, Node, NodeShape, Sum
from compressor.report.graph.placement import (
    ROW_GAP,
    CanvasPoint,
    LinkRoute,
    PlacedBlock,
    PlacedNode,
    label_width,
    node_size,
)

#: Distance from the stream to branches on its left, and on its right, where its labels are.
_LEFT, _RIGHT = 44.0, 92.0
_PAD, _MARGIN = 16.0, 24.0
#: Distance between stacks, for the edges from the encoder.
_GUTTER = 72.0
_SPINE_GAP = 38.0


@dataclass
class Picture:
    """A placed graph; y grows upwards.

    Attributes:
        top: of everything, as `height` is.
        panels: backgrounds of layers, as (left, top, width, height, title, tip).
        captions: (text, middle, baseline).
    """

    width: float = 0.0
    height: float = 0.0
    top: float = 0.0
    nodes: list[PlacedNode] = field(default_factory=list)
    routes: list[LinkRoute] = field(default_factory=list)
    panels: list[tuple[float, float, float, float, str, str]] = field(default_factory=list)
    captions: list[tuple[str, float, float]] = field(default_factory=list)
    dots: list[tuple[CanvasPoint, EdgeMap]] = field(default_factory=list)


def lay_out(graph: ModelGraph) -> Picture:
    """Place every node and edge."""
    picture = Picture()
    left = _MARGIN
    memory: tuple[CanvasPoint, EdgeMap] | None = None
    for column in graph.columns:
        layout = _ColumnLayout(picture, column, left, memory)
        memory = (layout.end, column.after)
        left = layout.right + _GUTTER
    picture.width = left - _GUTTER + _MARGIN
    picture.top = max([node.top for node in picture.nodes] + [y for r in picture.routes for _, y in r.points])
    lowest = min([node.bottom for node in picture.nodes] + [y for _, _, y in picture.captions])
    picture.height = picture.top - lowest + _MARGIN
    return picture


class _ColumnLayout:
    """Places one stack."""

    def __init__(
        self, picture: Picture, column: Column, left: float, memory: tuple[CanvasPoint, EdgeMap] | None
    ) -> None:
        self.picture, self.left, self.memory = picture, left, memory
        self.blocks: dict[int, list[PlacedBlock]] = {}
        left_extents, right_extents = [60.0], [_RIGHT]
        for item in (item for stage in column.stages for item in stage.items):
            left_extent, right_extent = self._extents(item)
            left_extents.append(left_extent)
            right_extents.append(right_extent)
        self.spine = left + _PAD + max(left_extents)
        self.right = self.spine + max(right_extents) + _PAD
        self.y = 0.0
        #: Upper end of the last node or sum on the stream.
        self.last: CanvasPoint | None = None
        self.taps: list[float] = []
        self._place_aside(column)
        for stage in column.stages:
            self.y += 12 if stage.title else 0
            bottom = self.y
            for item in stage.items:
                self._place(item)
            if stage.title:
                self.y += 24
                panel = (left, self.y, self.right - left, self.y - bottom, stage.title, stage.tip)
                picture.panels.append(panel)
        self.end = self.last or (self.spine, self.y)
        middle = (left + self.right) / 2
        picture.captions.append((column.title, middle, -30.0))
        if self.taps and memory:
            self._route_memory(*memory)

    def _extents(self, item: Item) -> tuple[float, float]:
        """Width left and right."""
        if isinstance(item, Inline):
            half = node_size(item.node)[0] / 2
            return half, half
        placed = [PlacedBlock(block) for block in (item.blocks if isinstance(item, Sum) else (item.block,))]
        self.blocks[id(item)] = placed
        if isinstance(item, HeadBlock):
            return placed[0].width / 2, placed[0].width / 2
        right = sum(block.width + _RIGHT for block in placed[1:])
        return placed[0].width + _LEFT, max(_RIGHT, right)

    def _place(self, item: Item) -> None:
        if isinstance(item, Inline):
            self._place_inline(item.node, item.before)
        elif isinstance(item, Sum):
            self._place_sum(item)
        else:
            self._place_head(item)

    def _place_inline(self, node: Node, before: EdgeMap | None) -> None:
        width, height = node_size(node)
        if self.last is not None and before is not None:
            self.y += _SPINE_GAP
        placed = PlacedNode(node, self.spine, self.y + height / 2, width, height)
        self.picture.nodes.append(placed)
        if self.last is not None and before is not None:
            self._route_spine(placed.bottom, before)
        self.last = (self.spine, placed.top)
        self.y = placed.top

    def _route_spine(self, top: float, edge_map: EdgeMap) -> None:
        assert self.last is not None
        # A short edge may leave a layer, whose border would cross a centred label.
        height = (self.last[1] + top) / 2 if top - self.last[1] > 100 else top - 16
        route = LinkRoute([self.last, (self.spine, top)], edge_map, (self.spine + 7, height), word=edge_map.kind.value)
        self.picture.routes.append(route)

    def _place_sum(self, item: Sum) -> None:
        blocks = self.blocks[id(item)]
        fork = self.y + 18
        low = fork + ROW_GAP - 4
        left = self.spine - _LEFT - blocks[0].width
        right = self.spine
        for index, block in enumerate(blocks):
            if index:
                left = right + _RIGHT
                right = left + block.width
            block.move(left, low)
            self._add_block(block, fork)
        height = low + max(block.height for block in blocks) + 30
        node = Node(NodeShape.SUM, "+", (), "sum")
        middle = PlacedNode(node, self.spine, height, *node_size(node))
        for block in blocks:
            for link in block.leaves:
                assert link.source is not None
                source = block.placed[link.source]
                side = middle.left if source.x < self.spine else middle.right
                inwards = 14 if source.x < self.spine else -14 - label_width(link.edge_map)
                points = [(source.x, source.top), (source.x, height), (side, height)]
                self.picture.routes.append(LinkRoute(points, link.edge_map, (source.x + inwards, height + 9)))
        self.picture.nodes.append(middle)
        self._route_spine(middle.bottom, item.before)
        self.last = (self.spine, middle.top)
        self.y = middle.top

    def _add_block(self, block: PlacedBlock, fork: float) -> None:
        """Add a block and the edges that enter it."""
        self.picture.nodes += block.placed.values()
        self.picture.routes += block.routes()
        for link in block.enters:
            assert link.target is not None
            target = block.placed[link.target]
            label = (target.x + 5, target.bottom - ROW_GAP / 2 + 3)
            if link.memory and self.memory:
                height, start = target.bottom - ROW_GAP + 7, self._memory_x
                self.taps.append(height)
            else:
                height, start = fork, self.spine
            self.picture.dots.append(((start, height), link.edge_map))
            points = [(start, height), (target.x, height), (target.x, target.bottom)]
            self.picture.routes.append(LinkRoute(points, link.edge_map, label))

    @property
    def _memory_x(self) -> float:
        return self.left - _GUTTER / 2

    def _route_memory(self, start: CanvasPoint, edge_map: EdgeMap) -> None:
        """Add the edges from the encoder."""
        x, y = start
        over = y + 22
        ends = [(self._memory_x, height) for height in (min(self.taps), max(self.taps))]
        label = (x + 7, y + 11)
        for index, end in enumerate(ends):
            if index == 0 or end[1] > over:
                points = [(x, y), (x, over), (self._memory_x, over), end]
                position = None if index else label
                self.picture.routes.append(LinkRoute(points, edge_map, position, arrow=False, word=edge_map.kind.value))

    def _place_head(self, item: HeadBlock) -> None:
        (block,) = self.blocks[id(item)]
        block.move(self.spine - block.width / 2, self.y + _SPINE_GAP + 8)
        self.picture.nodes += block.placed.values()
        self.picture.routes += block.routes()
        for link in block.enters:
            assert link.target is not None and self.last is not None
            target = block.placed[link.target]
            bend = self.y + 12
            x = self.spine if target.left + 8 <= self.spine <= target.right - 8 else target.x
            corners = [] if x == self.spine else [(self.spine, bend), (x, bend)]
            points = [self.last, *corners, (x, target.bottom)]
            label = (x + 7, target.bottom - 16)
            self.picture.routes.append(LinkRoute(points, link.edge_map, label, word=link.edge_map.kind.value))
        self.y += _SPINE_GAP + 8 + block.height
        self.last = (self.spine, self.y)

    def _place_aside(self, column: Column) -> None:
        block = PlacedBlock(column.aside)
        if block.placed:
            shift = max(0.0, block.width + 90 - (self.spine - self.left))
            self.spine, self.right = self.spine + shift, self.right + shift
            block.move(self.left, 0.0)
            self.picture.nodes += block.placed.values()
            self.picture.routes += block.routes()
            self.y = max(0.0, block.height - 40)
