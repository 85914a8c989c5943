"""Where each map is made and last needed."""

from __future__ import annotations

from compressor.anatomy import Kind, LinearOp, Norm, Role, map_key
from compressor.anatomy.sites import FlowGraph

#: Before the first item of the flow.
START = -1


class Schedule:
    """Places of maps along the flow, from `START`.

    Attributes:
        made: {map key: place}.
        needed: {map key: last place}.
        junctions: {place: junctions completed there}.
        mixed: keys that meet at junctions.
    """

    def __init__(self, graph: FlowGraph) -> None:
        anatomy = graph.anatomy
        self.made = dict.fromkeys(graph.entries, START)
        self.needed: dict[str, int] = {}
        self.unwritten = [
            space.name
            for space in anatomy.spaces.values()
            if space.kind is Kind.EMBEDDING
            or (space.kind is Kind.HIDDEN and not any(op.writes == space.name for op in anatomy.steps))
        ]
        self.made |= dict.fromkeys(self.unwritten, START)
        self.junctions = {
            place: [junction for junction in graph.junctions if junction.branches[-1] == _branch_of(item)]
            for place, item in enumerate(anatomy.flow)
        }
        for place, item in enumerate(anatomy.flow):
            if isinstance(item, LinearOp):
                self.needed |= dict.fromkeys(self._keys(graph, item.reads), place)
                for key in self._keys(graph, item.writes):
                    self.made.setdefault(key, place)
            for junction in self.junctions[place]:
                self.needed |= dict.fromkeys((junction.before, *junction.branches), place)
                self.made[junction.after] = place
        self.mixed = {key for junction in graph.junctions for key in (junction.before, *junction.branches)}

    @staticmethod
    def _keys(graph: FlowGraph, name: str | None) -> list[str]:
        space = graph.anatomy.spaces.get(name or "")
        if space is None:
            return []
        return [map_key(space.name, role) for role in Role] if space.kind is Kind.ATTENTION else [space.name]


def _branch_of(item: LinearOp | Norm) -> str | None:
    """The branch that an item adds."""
    if item.joins is None:
        return None
    return item.writes if isinstance(item, LinearOp) else item.space
