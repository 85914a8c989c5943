"""Places for a whole flow graph: every stack a column with the stream as its spine, from bottom to top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from compressor.report.graph.parts import CarriedValue, Column, Crown, Inline, Item, ModelGraph, Node, SizeChange, Sum
from compressor.report.graph.placement import (
    NAME,
    ROW_GAP,
    CanvasPoint,
    LinkRoute,
    Placed,
    PlacedBlock,
    label_width,
    node_size,
)

#: From the stream to the branches on its left and on its right, where its own labels are.
_LEFT, _RIGHT = 44.0, 92.0
_PAD, _MARGIN = 16.0, 24.0
#: Between stacks, where the memory of the encoder rises or falls.
_GUTTER = 72.0
_SPINE_GAP = 38.0


@dataclass
class Panel:
    """The ground that a layer stands on."""

    left: float
    top: float
    width: float
    height: float
    title: str
    tip: str


@dataclass
class Caption:
    """A line of type; `x` is its left end or, of a centred one, its middle, and `y` its base line."""

    text: str
    x: float
    y: float
    size: float
    centred: bool = False


@dataclass
class Picture:
    """A graph with a place for everything; y grows downwards."""

    graph: ModelGraph
    width: float = 0.0
    height: float = 0.0
    nodes: list[Placed] = field(default_factory=list)
    routes: list[LinkRoute] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    captions: list[Caption] = field(default_factory=list)
    dots: list[tuple[CanvasPoint, CarriedValue]] = field(default_factory=list)

    def move(self, moved: Callable[[float, float], CanvasPoint]) -> None:
        """Put every point elsewhere."""
        for place in self.nodes:
            place.x, place.y = moved(place.x, place.y)
        for caption in self.captions:
            caption.x, caption.y = moved(caption.x, caption.y)
        for panel in self.panels:
            panel.left, panel.top = moved(panel.left, panel.top)
        for route in self.routes:
            route.points = [moved(*point) for point in route.points]
            route.label = route.label and moved(*route.label)
        self.dots = [(moved(*point), carried) for point, carried in self.dots]


def lay_out(graph: ModelGraph) -> Picture:
    """Give every node and edge of a graph a place."""
    picture = Picture(graph)
    left = _MARGIN
    memory: tuple[CanvasPoint, CarriedValue] | None = None
    for column in graph.columns:
        drawn = _ColumnLayout(picture, column, left, memory)
        memory = (drawn.end, column.after)
        left = drawn.right + _GUTTER
    picture.width = left - _GUTTER + _MARGIN
    top = max([p.top for p in picture.nodes] + [y for r in picture.routes for _, y in r.points])
    lowest = min([place.bottom for place in picture.nodes] + [caption.y for caption in picture.captions])
    picture.height = top - lowest + _MARGIN
    picture.move(lambda x, y: (x, top - y))
    return picture


class _ColumnLayout:
    """Places one stack.

    Args:
        picture: what it is added to.
        column: the stack.
        left: where it begins.
        memory: where the stack before ends, and the map there.
    """

    def __init__(
        self, picture: Picture, column: Column, left: float, memory: tuple[CanvasPoint, CarriedValue] | None
    ) -> None:
        self.picture, self.left, self.memory = picture, left, memory
        self.blocks: dict[int, list[PlacedBlock]] = {}
        reach_left, reach_right = [60.0], [_RIGHT]
        for item in (item for stage in column.stages for item in stage.items):
            first, *others = self._measure(item)
            reach_left.append(first)
            reach_right += others
        self.spine = left + _PAD + max(reach_left)
        self.right = self.spine + max(reach_right) + _PAD
        self.y = 0.0
        #: Where the stream was left, by a node or a sum.
        self.last: CanvasPoint | None = None
        self.taps: list[float] = []
        self._aside(column)
        for stage in column.stages:
            self.y += 12 if stage.title else 0
            bottom = self.y
            for item in stage.items:
                self._place(item)
            if stage.title:
                self.y += 24
                panel = Panel(left, self.y, self.right - left, self.y - bottom, stage.title, stage.tip)
                picture.panels.append(panel)
        self.end = self.last or (self.spine, self.y)
        middle = (left + self.right) / 2
        picture.captions.append(Caption(column.title, middle, -30.0, NAME, centred=True))
        if self.taps and memory:
            self._trunk(*memory)

    def _measure(self, item: Item) -> tuple[float, ...]:
        """How far an item reaches to the left of the stream, and to the right."""
        if isinstance(item, Inline):
            half = node_size(item.node)[0] / 2
            return half, half
        placed = [PlacedBlock(block) for block in (item.blocks if isinstance(item, Sum) else (item.block,))]
        self.blocks[id(item)] = placed
        if isinstance(item, Crown):
            return placed[0].width / 2, placed[0].width / 2
        right = sum(block.width + _RIGHT for block in placed[1:])
        return placed[0].width + _LEFT, max(_RIGHT, right)

    def _place(self, item: Item) -> None:
        if isinstance(item, Inline):
            self._inline(item.node, item.before)
        elif isinstance(item, Sum):
            self._sum(item)
        else:
            self._crown(item)

    def _inline(self, node: Node, before: CarriedValue | None) -> None:
        width, height = node_size(node)
        if self.last is not None and before is not None:
            self.y += _SPINE_GAP
        place = Placed(node, self.spine, self.y + height / 2, width, height)
        self.picture.nodes.append(place)
        if self.last is not None and before is not None:
            self._spine(place.bottom, before)
        self.last = (self.spine, place.top)
        self.y = place.top

    def _spine(self, top: float, carried: CarriedValue) -> None:
        assert self.last is not None
        # A short edge may leave a layer, whose border would cross a label in the middle.
        height = (self.last[1] + top) / 2 if top - self.last[1] > 100 else top - 16
        route = LinkRoute([self.last, (self.spine, top)], carried, (self.spine + 7, height), word=carried.flows.value)
        self.picture.routes.append(route)

    def _sum(self, item: Sum) -> None:
        blocks = self.blocks[id(item)]
        fork = self.y + 18
        low = fork + ROW_GAP - 4
        left = self.spine - _LEFT - blocks[0].width
        right = self.spine
        for place, block in enumerate(blocks):
            if place:
                left = right + _RIGHT
                right = left + block.width
            block.moved(left, low)
            self._fill(block, fork)
        height = low + max(block.height for block in blocks) + 30
        node = Node(SizeChange.SUM, "+", (), "sum")
        middle = Placed(node, self.spine, height, *node_size(node))
        for block in blocks:
            for link in block.leaves:
                assert link.source is not None
                source = block.places[link.source]
                side = middle.left if source.x < self.spine else middle.right
                inwards = 14 if source.x < self.spine else -14 - label_width(link.carried)
                points = [(source.x, source.top), (source.x, height), (side, height)]
                self.picture.routes.append(LinkRoute(points, link.carried, (source.x + inwards, height + 9)))
        self.picture.nodes.append(middle)
        self._spine(middle.bottom, item.before)
        self.last = (self.spine, middle.top)
        self.y = middle.top

    def _fill(self, block: PlacedBlock, fork: float) -> None:
        """Add a block beside the stream, with the edges that enter it."""
        self.picture.nodes += block.places.values()
        self.picture.routes += block.routes()
        for link in block.enters:
            assert link.target is not None
            target = block.places[link.target]
            label = (target.x + 5, target.bottom - ROW_GAP / 2 + 3)
            if link.memory and self.memory:
                height, start = target.bottom - ROW_GAP + 7, self._rise
                self.taps.append(height)
            else:
                height, start = fork, self.spine
            self.picture.dots.append(((start, height), link.carried))
            points = [(start, height), (target.x, height), (target.x, target.bottom)]
            self.picture.routes.append(LinkRoute(points, link.carried, label))

    @property
    def _rise(self) -> float:
        return self.left - _GUTTER / 2

    def _trunk(self, start: CanvasPoint, carried: CarriedValue) -> None:
        """The end of the encoder, led to the height of all that reads it."""
        x, y = start
        over = y + 22
        far = [(self._rise, height) for height in (min(self.taps), max(self.taps))]
        label = (x + 7, y + 11)
        for place, end in enumerate(far):
            if place == 0 or end[1] > over:
                points = [(x, y), (x, over), (self._rise, over), end]
                where = None if place else label
                self.picture.routes.append(LinkRoute(points, carried, where, arrow=False, word=carried.flows.value))

    def _crown(self, item: Crown) -> None:
        (block,) = self.blocks[id(item)]
        block.moved(self.spine - block.width / 2, self.y + _SPINE_GAP + 8)
        self.picture.nodes += block.places.values()
        self.picture.routes += block.routes()
        for link in block.enters:
            assert link.target is not None and self.last is not None
            target = block.places[link.target]
            bend = self.y + 12
            x = self.spine if target.left + 8 <= self.spine <= target.right - 8 else target.x
            corners = [] if x == self.spine else [(self.spine, bend), (x, bend)]
            points = [self.last, *corners, (x, target.bottom)]
            label = (x + 7, target.bottom - 16)
            self.picture.routes.append(LinkRoute(points, link.carried, label, word=link.carried.flows.value))
        self.y += _SPINE_GAP + 8 + block.height
        self.last = (self.spine, self.y)

    def _aside(self, column: Column) -> None:
        """What is no token of the stream stands left of the embeddings."""
        block = PlacedBlock(column.aside)
        if block.places:
            shift = max(0.0, block.width + 90 - (self.spine - self.left))
            self.spine, self.right = self.spine + shift, self.right + shift
            block.moved(self.left, 0.0)
            self.picture.nodes += block.places.values()
            self.picture.routes += block.routes()
            self.y = max(0.0, block.height - 40)
