"""When along the flow the map of every key is made, and until when the alignment itself asks for it."""

from __future__ import annotations

from compressor.anatomy import Kind, LinearOp, Norm, Role, map_key
from compressor.anatomy.sites import FlowGraph

#: Before the first item of the flow.
START = -1


class Schedule:
    """Places are counted along the flow; `START` is before its first item.

    Args:
        graph: the flow.

    Attributes:
        made: {map key: where its map is made}.
        asked: {map key: the last place where another map is made from it}.
        unwritten: spaces whose maps are made at the start, though they are no stream.
        junctions: {place: the junctions whose last branch is added there}.
        mixed: keys whose couplings are mixed at a junction.
    """

    def __init__(self, graph: FlowGraph) -> None:
        anatomy = graph.anatomy
        self.made = dict.fromkeys(graph.entries, START)
        self.asked: dict[str, int] = {}
        self.unwritten = [
            space.name
            for space in anatomy.spaces.values()
            if space.kind is Kind.EMBEDDING
            or (space.kind is Kind.HIDDEN and not any(step.writes == space.name for step in anatomy.steps))
        ]
        self.made |= dict.fromkeys(self.unwritten, START)
        self.junctions = {
            place: [one for one in graph.junctions if one.branches[-1] == _adds(item)]
            for place, item in enumerate(anatomy.flow)
        }
        for place, item in enumerate(anatomy.flow):
            if isinstance(item, LinearOp):
                self.asked |= dict.fromkeys(self._keys(graph, item.reads), place)
                for key in self._keys(graph, item.writes):
                    self.made.setdefault(key, place)
            for junction in self.junctions[place]:
                self.asked |= dict.fromkeys((junction.before, *junction.branches), place)
                self.made[junction.after] = place
        self.mixed = {key for one in graph.junctions for key in (one.before, *one.branches)}

    @staticmethod
    def _keys(graph: FlowGraph, name: str | None) -> list[str]:
        space = graph.anatomy.spaces.get(name or "")
        if space is None:
            return []
        return [map_key(space.name, role) for role in Role] if space.kind is Kind.ATTENTION else [space.name]


def _adds(item: LinearOp | Norm) -> str | None:
    """The branch that an item adds to the stream, if it does."""
    if item.joins is None:
        return None
    return item.writes if isinstance(item, LinearOp) else item.space
