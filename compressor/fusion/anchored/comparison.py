"""What the coordinates of a teacher and of the anchor are compared by, at every place that has a map of its own.

From activations all moments are summed in one pass over the calibration tokens; from weights a place is compared once
the maps of what it reads are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from compressor.anatomy import Anatomy, Kind, Map, Role, map_key
from compressor.anatomy.sites import FlowGraph
from compressor.anatomy.trace import logits_of
from compressor.errors import UserError
from compressor.fusion.masks import Masks
from compressor.fusion.samples import without_labels
from compressor.fusion.sources import Source
from compressor.fusion.statistics import rows
from compressor.fusion.structure import attention_columns, reader, space_spots
from compressor.fusion.walk import Spot, watching
from compressor.fusion.weights import WeightFeatures, space_weight_gram
from compressor.transport import Moments, from_weights

#: Ends of an attention space that are compared; values and outputs are seen where the output projection reads them.
ENDS = (Role.QUERY, Role.KEY, Role.OUTPUT)


class Comparison(Protocol):
    """Where moments of a teacher's and the anchor's coordinates come from."""

    def moments(self, teacher: int, key: str, maps: Mapping[str, Map]) -> Moments:
        """Of the coordinates that the map `key` transports, given the teacher's maps of what they are made from."""

    def strength(self, key: str) -> Tensor:
        """Mean squares of the anchor's coordinates at a site, [m]."""


@dataclass(frozen=True)
class Place:
    """Where the values of a map's coordinates are seen: spots, and of an attention's end its space and role."""

    spots: tuple[Spot, ...]
    space: str | None = None
    role: Role | None = None


def places(graph: FlowGraph, *, everywhere: bool = False) -> dict[str, Place]:
    """By map key, where its coordinates are seen; a stream's entry alone or everywhere along it."""
    anatomy, found = graph.anatomy, dict[str, Place]()
    for stack, entry in zip(anatomy.stacks, graph.entries, strict=True):
        known = found[entry].spots if entry in found else ()
        spots = space_spots(anatomy, entry) if everywhere else [(stack.layers[0], "in")]
        found[entry] = Place(tuple(dict.fromkeys([*known, *spots])))
    for junction in graph.junctions:
        spot = (junction.module, "out" if junction.is_output else "in")
        found[junction.after] = Place((spot,))
        for branch in junction.branches:
            found.setdefault(branch, Place(((branch.removesuffix("/branch"), "out"),)))
    for space in anatomy.spaces.values():
        step = reader(anatomy, space.name)
        if space.kind is Kind.RESIDUAL or step is None:
            continue
        if space.kind is Kind.ATTENTION:
            for role in ENDS:
                spot = (step.module, "in") if role is Role.OUTPUT else attention_columns(anatomy, space.name, role)[0]
                found[map_key(space.name, role)] = Place((spot,), space.name, role)
        else:
            found[space.name] = Place(((step.module, "in"),))
    return found


class ByActivations:
    """Moments over calibration tokens, one pass of every model.

    Args:
        sources: the teachers.
        guide: the anchor.
        graph: its flow.
        batches: calibration inputs.
        masks: which tokens count.
        everywhere: compare residual streams at all depths together, not at their entry alone.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        guide: Source,
        graph: FlowGraph,
        batches: Sequence[Mapping[str, Tensor]],
        masks: Masks,
        *,
        everywhere: bool = False,
    ) -> None:
        self.places = places(graph, everywhere=everywhere)
        self._weights = ByWeights(sources, guide, graph)
        self._sums: dict[tuple[int, str, Spot], Moments] = {}
        models = [*sources, guide]
        for index, batch in enumerate(batches):
            shown = [self._see(model, batch, index, masks) for model in models]
            for teacher, source in enumerate(sources):
                if source.model is guide.model:
                    continue
                for place, x in shown[teacher].items():
                    self._add((teacher, *place), x, shown[-1][place])

    def moments(self, teacher: int, key: str, maps: Mapping[str, Map]) -> Moments:
        place = self.places.get(key)
        if place is None:
            return self._weights.moments(teacher, key, maps)
        found = [self._sums[teacher, key, spot] for spot in place.spots]
        if len(found) == 1:
            return found[0]
        # Every depth counts alike, though the stream grows along the way.
        return summed([_scaled(one, 1 / _size(one)) for one in found])

    def strength(self, key: str) -> Tensor:
        seen = next(teacher for teacher, _, _ in self._sums)
        found = [self._sums[seen, key, spot] for spot in self.places[key].spots]
        return torch.stack([one.yy / one.count for one in found]).mean(0)

    @torch.no_grad()
    def _see(
        self, source: Source, batch: Mapping[str, Tensor], index: int, masks: Masks
    ) -> dict[tuple[str, Spot], Tensor]:
        """Of every place, the token vectors [T, n] that count."""
        own = {spot: (source.own(spot[0]), spot[1]) for place in self.places.values() for spot in place.spots}
        with watching(source.model, list(own.values())) as seen:
            logits_of(source.model, without_labels(batch))
        found = {}
        for key, place in self.places.items():
            for spot in place.spots:
                values = rows(seen[own[spot]], masks.of(index, spot[0]))
                if place.space is not None and place.role not in (None, Role.OUTPUT):
                    columns = attention_columns(source.anatomy, source.own(place.space), place.role)[1]
                    values = values[:, columns]
                found[key, spot] = values
        return found

    def _add(self, place: tuple[int, str, Spot], x: Tensor, y: Tensor) -> None:
        moments = Moments(
            x.square().sum(0).double(), y.square().sum(0).double(), (x.T @ y).double(),
            x.sum(0).double(), y.sum(0).double(), float(len(x)),
        )  # fmt: skip
        known = self._sums.get(place)
        self._sums[place] = moments if known is None else summed([known, moments])


class ByWeights:
    """Moments of incoming weights, what they read already transported: activations under white inputs.

    Args:
        sources: the teachers.
        guide: the anchor.
        graph: its flow.
    """

    def __init__(self, sources: Sequence[Source], guide: Source, graph: FlowGraph) -> None:
        self.sources, self.guide, self.graph = sources, guide, graph

    def moments(self, teacher: int, key: str, maps: Mapping[str, Map]) -> Moments:
        pair = (self.sources[teacher], self.guide)
        name, _, role = key.partition("/")
        kinds = {end.value: end for end in Role}
        if key in (*self.graph.entries, *self._embeddings):
            gram, n = space_weight_gram(pair, key), pair[0].space(key).size
            return Moments(gram.diagonal()[:n], gram.diagonal()[n:], gram[:n, n:])
        features = WeightFeatures(pair, [maps, {}], self.graph.anatomy)
        if role in kinds:
            end = Role.VALUE if kinds[role] is Role.OUTPUT else kinds[role]
            x, y = features.incoming(name, end)
        else:
            x, y = features.incoming(key, None)
        return from_weights(x, y)

    def strength(self, key: str) -> Tensor:
        raise UserError("weighted residual policies weigh by activations, so they need calibration data")

    @cached_property
    def _embeddings(self) -> list[str]:
        spaces: Anatomy = self.graph.anatomy
        return [space.name for space in spaces.spaces.values() if space.kind is Kind.EMBEDDING]


def summed(parts: Sequence[Moments]) -> Moments:
    """The moments over all tokens of several."""
    first = parts[0]
    xx, yy, xy = (torch.stack([getattr(one, name) for one in parts]).sum(0) for name in ("xx", "yy", "xy"))
    if any(one.x is None or one.y is None for one in parts):
        return Moments(xx, yy, xy, count=first.count)
    x, y = (torch.stack([getattr(one, name) for one in parts]).sum(0) for name in ("x", "y"))
    return Moments(xx, yy, xy, x, y, sum(one.count for one in parts))


def _size(moments: Moments) -> float:
    """Mean square of both models' coordinates there."""
    mean = (float(moments.xx.mean()) + float(moments.yy.mean())) / 2 / moments.count
    return mean if mean > 0 else 1.0


def _scaled(moments: Moments, factor: float) -> Moments:
    """The moments of features times √factor."""
    root = factor**0.5
    x = None if moments.x is None else moments.x * root
    y = None if moments.y is None else moments.y * root
    return Moments(moments.xx * factor, moments.yy * factor, moments.xy * factor, x, y, moments.count)
