"""What the coordinates of a teacher and of the anchor are compared by, at every place that has a map of its own.

From activations moments are summed in passes over the calibration tokens, those of some places in each; from weights a
place is compared once the maps of what it reads are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from compressor.anatomy import Anatomy, Kind, Map, Role, map_key
from compressor.anatomy.hooks import logits_of
from compressor.anatomy.queries import attention_columns, reader, space_taps
from compressor.anatomy.sites import FlowGraph
from compressor.errors import UserError
from compressor.fusion.anchored.schedule import START, Schedule
from compressor.fusion.calibration.batches import without_labels
from compressor.fusion.calibration.layerwise import Tap, capture_taps, check_seen, ending_early
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.statistics import token_rows
from compressor.fusion.features.weight_features import WeightFeatures, space_weight_gram
from compressor.fusion.teacher import FusionTeacher
from compressor.transport import Moments, from_weights

#: Bytes that moments of several places may always take together; more where the anchor itself is larger.
MOMENT_BYTES = 256 * 2**20
#: Rows of moments that are levelled at once.
COMPARISON_BLOCK = 64

#: Ends of an attention space that are compared; values and outputs are seen where the output projection reads them.
ENDS = (Role.QUERY, Role.KEY, Role.OUTPUT)


class FeatureComparison(Protocol):
    """Where moments of a teacher's and the anchor's coordinates come from."""

    def moments(self, teacher: int, key: str, maps: Mapping[str, Map]) -> Moments:
        """Of the coordinates that the map `key` transports, given the teacher's maps of what they are made from."""

    def strength(self, key: str) -> Tensor:
        """Mean squares of the anchor's coordinates at a site, [m]."""


@dataclass(frozen=True)
class MapSite:
    """Where the values of a map's coordinates are seen: spots, and of an attention's end its space and role."""

    spots: tuple[Tap, ...]
    space: str | None = None
    role: Role | None = None


def map_sites(graph: FlowGraph, *, everywhere: bool = False) -> dict[str, MapSite]:
    """By map key, where its coordinates are seen; a stream's entry alone or everywhere along it."""
    anatomy, found = graph.anatomy, dict[str, MapSite]()
    for stack, entry in zip(anatomy.stacks, graph.entries, strict=True):
        known = found[entry].spots if entry in found else ()
        spots = space_taps(anatomy, entry) if everywhere else [(stack.layers[0], "in")]
        found[entry] = MapSite(tuple(dict.fromkeys([*known, *spots])))
    for junction in graph.junctions:
        spot = (junction.module, "out" if junction.is_output else "in")
        found[junction.after] = MapSite((spot,))
        for branch in junction.branches:
            found.setdefault(branch, MapSite(((branch.removesuffix("/branch"), "out"),)))
    for space in anatomy.spaces.values():
        step = reader(anatomy, space.name)
        if space.kind is Kind.RESIDUAL or step is None:
            continue
        if space.kind is Kind.ATTENTION:
            for role in ENDS:
                spot = (step.module, "in") if role is Role.OUTPUT else attention_columns(anatomy, space.name, role)[0]
                found[map_key(space.name, role)] = MapSite((spot,), space.name, role)
        else:
            found[space.name] = MapSite(((step.module, "in"),))
    return found


class ByActivations:
    """Moments over calibration tokens.

    They are summed for as many places together as `MOMENT_BYTES` or the anchor's own size allow, in the order in which
    the flow asks for them, one pass of the models each time; and given away, so that what was asked for is not kept.

    Args:
        sources: the teachers.
        guide: the anchor.
        graph: its flow.
        batches: calibration inputs.
        masks: which tokens count.
        everywhere: compare residual streams at all depths together, not at their entry alone.
        weighs: whether the strengths of signals will be asked for.
        lap: told "solve" where a pass begins and "statistics" where it ends, for the report's seconds.
    """

    def __init__(
        self,
        sources: Sequence[FusionTeacher],
        guide: FusionTeacher,
        graph: FlowGraph,
        batches: Sequence[Mapping[str, Tensor]],
        masks: Masks,
        *,
        everywhere: bool = False,
        weighs: bool = False,
        lap: Callable[[str], None] = lambda stage: None,
    ) -> None:
        self.places = map_sites(graph, everywhere=everywhere)
        self.sources, self.guide, self.batches, self.masks, self._lap = sources, guide, batches, masks, lap
        self._weights = ByWeights(sources, guide, graph)
        self._moved = [k for k, source in enumerate(sources) if source.model is not guide.model]
        #: Sites behind a sum are not compared, their coupling is a mix; of them strengths alone are asked for.
        self._mixes = {junction.after for junction in graph.junctions}
        self._order = _in_order(self.places, graph)
        if not weighs:
            self._order = [key for key in self._order if key not in self._mixes]
        self._room = max(MOMENT_BYTES, _weight(guide.model))
        self._sums: dict[tuple[int, str, Tap], Moments] = {}
        self._strengths: dict[tuple[str, Tap], Tensor] = {}

    def moments(self, teacher: int, key: str, maps: Mapping[str, Map]) -> Moments:
        place = self.places.get(key)
        if place is None:
            return self._weights.moments(teacher, key, maps)
        if (teacher, key, place.spots[0]) not in self._sums:
            self._measure(key)
        found = [self._sums.pop((teacher, key, spot)) for spot in place.spots]
        # Every depth counts alike, though the stream grows along the way.
        return found[0] if len(found) == 1 else _levelled(found)

    def strength(self, key: str) -> Tensor:
        spots = self.places[key].spots
        if (key, spots[0]) not in self._strengths:
            self._measure(key)
        return torch.stack([self._strengths[key, spot] for spot in spots]).mean(0)

    @torch.no_grad()
    def _measure(self, first: str) -> None:
        """Sum the moments of a place and of as many behind it as there is room for."""
        self._lap("solve")
        chosen, total, known = [first], self._size(first), {key for _, key, _ in self._sums}
        for key in [key for key in self._order[self._order.index(first) + 1 :] if key not in known]:
            total += self._size(key)
            if total > self._room:
                break
            chosen.append(key)
        for index, batch in enumerate(self.batches):
            shown = self._see(self.guide, chosen, index, batch)
            for teacher in self._moved:
                for place, x in self._see(self.sources[teacher], chosen, index, batch).items():
                    self._add((teacher, *place), x, shown[place])
        for (teacher, key, spot), one in self._sums.items():
            if key in chosen and teacher == self._moved[0]:
                self._strengths[key, spot] = one.yy / one.count
        self._sums = {place: one for place, one in self._sums.items() if place[1] not in self._mixes}
        self._lap("statistics")

    def _size(self, key: str) -> int:
        """Bytes that the moments of a place take."""
        if key in self._mixes:
            return 0
        name = self.places[key].space or key
        sizes = sum(self.sources[teacher].space(name).size for teacher in self._moved)
        return 8 * len(self.places[key].spots) * sizes * self.guide.space(name).size

    def _see(
        self, source: FusionTeacher, keys: Sequence[str], index: int, batch: Mapping[str, Tensor]
    ) -> dict[tuple[str, Tap], Tensor]:
        """Of some places, the token vectors [T, n] that count."""
        chosen = {key: self.places[key] for key in keys}
        own = {spot: (source.own(spot[0]), spot[1]) for place in chosen.values() for spot in place.spots}
        with capture_taps(source.model, list(dict.fromkeys(own.values())), stop=True) as seen, ending_early():
            logits_of(source.model, without_labels(batch))
        check_seen(source.name, seen)
        found = {}
        for key, place in chosen.items():
            for spot in place.spots:
                values = token_rows(seen[own[spot]], self.masks.of(index, spot[0]))
                if place.space is not None and place.role not in (None, Role.OUTPUT):
                    columns = attention_columns(source.anatomy, source.own(place.space), place.role)[1]
                    values = values if len(columns) == values.shape[1] else values[:, columns]
                found[key, spot] = values
        return found

    def _add(self, place: tuple[int, str, Tap], x: Tensor, y: Tensor) -> None:
        product = x.T @ y if place[1] not in self._mixes else torch.zeros(0, dtype=x.dtype)
        found = Moments(x.square().sum(0), y.square().sum(0), product, x.sum(0), y.sum(0), float(len(x)))
        self._sums[place] = add_moments(self._sums.get(place), found)


class ByWeights:
    """Moments of incoming weights, what they read already transported: activations under white inputs.

    Args:
        sources: the teachers.
        guide: the anchor.
        graph: its flow.
    """

    def __init__(self, sources: Sequence[FusionTeacher], guide: FusionTeacher, graph: FlowGraph) -> None:
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


def add_moments(known: Moments | None, more: Moments) -> Moments:
    """The moments over all tokens of both, in float64; what is known is changed, so that it is not in memory twice."""
    names = ("xx", "yy", "xy", "x", "y")
    if known is None:
        return replace(more, **{name: getattr(more, name).double() for name in names})
    for name in names:
        getattr(known, name).add_(getattr(more, name))
    return replace(known, count=known.count + more.count)


def sum_moments(parts: Sequence[Moments]) -> Moments:
    """The moments over all tokens of several."""
    first = parts[0]
    xx, yy, xy = (torch.stack([getattr(one, name) for one in parts]).sum(0) for name in ("xx", "yy", "xy"))
    if any(one.x is None or one.y is None for one in parts):
        return Moments(xx, yy, xy, count=first.count)
    x, y = (torch.stack([getattr(one, name) for one in parts]).sum(0) for name in ("x", "y"))
    return Moments(xx, yy, xy, x, y, sum(one.count for one in parts))


def _weight(model: nn.Module) -> int:
    """Bytes that a model's parameters take."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _in_order(known: Mapping[str, MapSite], graph: FlowGraph) -> list[str]:
    """The places in the order in which the flow asks for them."""
    made = Schedule(graph).made
    return sorted(known, key=lambda key: made.get(key, START))


def _levelled(parts: Sequence[Moments]) -> Moments:
    """The moments over several depths, each divided by its size."""
    factors = [1 / _size(one) for one in parts]
    lean = [_scaled(replace(one, xy=one.xy[:0]), factor) for one, factor in zip(parts, factors, strict=True)]
    # Block by block, or all depths would be in memory twice more.
    xy = torch.cat(
        [
            torch.stack(
                [one.xy[start : start + COMPARISON_BLOCK] * f for one, f in zip(parts, factors, strict=True)]
            ).sum(0)
            for start in range(0, len(parts[0].xy), COMPARISON_BLOCK)
        ]
    )
    return replace(sum_moments(lean), xy=xy)


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
