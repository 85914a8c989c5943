"""Moments that compare a teacher's coordinates with the anchor's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from compressor.anatomy import Kind, Map, Role, map_key
from compressor.anatomy.hooks import Tap, logits_of
from compressor.anatomy.queries import attention_columns, reader, space_taps
from compressor.anatomy.sites import FlowGraph
from compressor.errors import UserError
from compressor.fusion.anchored.schedule import START, Schedule
from compressor.fusion.calibration.batches import Batch
from compressor.fusion.calibration.capture import capture_taps, check_captured, ending_early
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.statistics import token_rows
from compressor.fusion.features.weight_features import WeightFeatures, space_weight_gram
from compressor.fusion.teacher import FusionTeacher
from compressor.models.inputs import without_labels
from compressor.transport import Moments, from_weights

#: Bytes of moments that are always allowed; more if the anchor is larger.
MOMENT_BYTES = 256 * 2**20
#: Rows of moments that are normalised at once.
COMPARISON_BLOCK = 64
#: Roles that are compared; values and outputs both at the output projection.
COMPARED_ROLES = (Role.QUERY, Role.KEY, Role.OUTPUT)


class FeatureComparison(Protocol):
    """A source of moments."""

    def moments(self, teacher: int, key: str, maps: Mapping[str, Map]) -> Moments:
        """Moments of a map key, given the teacher's maps of its inputs."""

    def strength(self, key: str) -> Tensor:
        """The anchor's mean squares at a site [m]."""


@dataclass(frozen=True)
class MapSite:
    """Where a map key is captured, in the student's names."""

    taps: tuple[Tap, ...]
    space: str | None = None
    role: Role | None = None


def map_sites(graph: FlowGraph, *, everywhere: bool = False) -> dict[str, MapSite]:
    """The site of every map key; of streams the entry, or everywhere."""
    anatomy, sites = graph.anatomy, dict[str, MapSite]()
    for stack, entry in zip(anatomy.stacks, graph.entries, strict=True):
        known = sites[entry].taps if entry in sites else ()
        taps = space_taps(anatomy, entry) if everywhere else [(stack.layers[0], "in")]
        sites[entry] = MapSite(tuple(dict.fromkeys([*known, *taps])))
    for junction in graph.junctions:
        tap = (junction.module, "out" if junction.is_output else "in")
        sites[junction.after] = MapSite((tap,))
        for branch in junction.branches:
            sites.setdefault(branch, MapSite(((branch.removesuffix("/branch"), "out"),)))
    for space in anatomy.spaces.values():
        op = reader(anatomy, space.name)
        if space.kind is Kind.RESIDUAL or op is None:
            continue
        if space.kind is Kind.ATTENTION:
            for role in COMPARED_ROLES:
                tap = (op.module, "in") if role is Role.OUTPUT else attention_columns(anatomy, space.name, role)[0]
                sites[map_key(space.name, role)] = MapSite((tap,), space.name, role)
        else:
            sites[space.name] = MapSite(((op.module, "in"),))
    return sites


class ByActivations:
    """Moments over calibration tokens.

    Each pass sums as many keys as memory allows; returned moments are not kept.

    Args:
        everywhere: compare streams at all depths, not only the entry.
    """

    def __init__(
        self,
        teachers: Sequence[FusionTeacher],
        anchor: FusionTeacher,
        graph: FlowGraph,
        batches: Sequence[Batch],
        masks: Masks,
        *,
        everywhere: bool = False,
        weighs: bool = False,
        lap: Callable[[str], None] = lambda stage: None,
    ) -> None:
        self.sites = map_sites(graph, everywhere=everywhere)
        self.teachers, self.anchor, self.batches, self.masks, self._lap = teachers, anchor, batches, masks, lap
        self._by_weights = ByWeights(teachers, anchor, graph)
        self._compared = [k for k, teacher in enumerate(teachers) if teacher.model is not anchor.model]
        #: Sites after a sum are not compared, since their coupling is a mixture; they have strengths alone.
        self._mixtures = {junction.after for junction in graph.junctions}
        made = Schedule(graph).made
        self._order = sorted(self.sites, key=lambda key: made.get(key, START))
        if not weighs:
            self._order = [key for key in self._order if key not in self._mixtures]
        self._room = max(MOMENT_BYTES, _model_bytes(anchor.model))
        self._sums: dict[tuple[int, str, Tap], Moments] = {}
        self._strengths: dict[tuple[str, Tap], Tensor] = {}

    def moments(self, teacher: int, key: str, maps: Mapping[str, Map]) -> Moments:
        site = self.sites.get(key)
        if site is None:
            return self._by_weights.moments(teacher, key, maps)
        if (teacher, key, site.taps[0]) not in self._sums:
            self._measure(key)
        parts = [self._sums.pop((teacher, key, tap)) for tap in site.taps]
        # Every depth counts alike, though the stream grows along the way.
        return parts[0] if len(parts) == 1 else _sum_normalised(parts)

    def strength(self, key: str) -> Tensor:
        taps = self.sites[key].taps
        if (key, taps[0]) not in self._strengths:
            self._measure(key)
        return torch.stack([self._strengths[key, tap] for tap in taps]).mean(0)

    @torch.no_grad()
    def _measure(self, first: str) -> None:
        """Sum moments from a key on."""
        self._lap("solve")
        chosen, total, known = [first], self._moment_bytes(first), {key for _, key, _ in self._sums}
        for key in [key for key in self._order[self._order.index(first) + 1 :] if key not in known]:
            total += self._moment_bytes(key)
            if total > self._room:
                break
            chosen.append(key)
        for index, batch in enumerate(self.batches):
            anchor_values = self._capture(self.anchor, chosen, index, batch)
            for teacher in self._compared:
                for place, x in self._capture(self.teachers[teacher], chosen, index, batch).items():
                    self._add((teacher, *place), x, anchor_values[place])
        for (teacher, key, tap), moments in self._sums.items():
            if key in chosen and teacher == self._compared[0]:
                self._strengths[key, tap] = moments.yy / moments.count
        self._sums = {place: moments for place, moments in self._sums.items() if place[1] not in self._mixtures}
        self._lap("statistics")

    def _moment_bytes(self, key: str) -> int:
        """Bytes of a key's moments."""
        if key in self._mixtures:
            return 0
        name = self.sites[key].space or key
        sizes = sum(self.teachers[teacher].space(name).size for teacher in self._compared)
        return 8 * len(self.sites[key].taps) * sizes * self.anchor.space(name).size

    def _capture(
        self, teacher: FusionTeacher, keys: Sequence[str], index: int, batch: Batch
    ) -> dict[tuple[str, Tap], Tensor]:
        """Tokens [T, n] by key and tap."""
        chosen = {key: self.sites[key] for key in keys}
        local = {tap: (teacher.local_name(tap[0]), tap[1]) for site in chosen.values() for tap in site.taps}
        with capture_taps(teacher.model, list(dict.fromkeys(local.values())), stop=True) as captured, ending_early():
            logits_of(teacher.model, without_labels(batch))
        check_captured(teacher.name, captured)
        values = {}
        for key, site in chosen.items():
            for tap in site.taps:
                rows = token_rows(captured[local[tap]], self.masks.of(index, tap[0]))
                if site.space is not None and site.role not in (None, Role.OUTPUT):
                    columns = attention_columns(teacher.anatomy, teacher.local_name(site.space), site.role)[1]
                    rows = rows if len(columns) == rows.shape[1] else rows[:, columns]
                values[key, tap] = rows
        return values

    def _add(self, place: tuple[int, str, Tap], x: Tensor, y: Tensor) -> None:
        product = x.T @ y if place[1] not in self._mixtures else torch.zeros(0, dtype=x.dtype)
        moments = Moments(x.square().sum(0), y.square().sum(0), product, x.sum(0), y.sum(0), float(len(x)))
        self._sums[place] = add_moments(self._sums.get(place), moments)


class ByWeights:
    """Moments of weights with transported inputs."""

    def __init__(self, teachers: Sequence[FusionTeacher], anchor: FusionTeacher, graph: FlowGraph) -> None:
        self.teachers, self.anchor, self.graph = teachers, anchor, graph

    def moments(self, teacher: int, key: str, maps: Mapping[str, Map]) -> Moments:
        pair = (self.teachers[teacher], self.anchor)
        name, _, suffix = key.partition("/")
        roles = {role.value: role for role in Role}
        if key in (*self.graph.entries, *self._embeddings):
            gram, n = space_weight_gram(pair, key), pair[0].space(key).size
            return Moments(gram.diagonal()[:n], gram.diagonal()[n:], gram[:n, n:])
        features = WeightFeatures(pair, [maps, {}], self.graph.anatomy)
        if suffix in roles:
            role = Role.VALUE if roles[suffix] is Role.OUTPUT else roles[suffix]
            x, y = features.incoming(name, role)
        else:
            x, y = features.incoming(key, None)
        return from_weights(x, y)

    def strength(self, key: str) -> Tensor:
        raise UserError("weighted residual policies weigh by activations, so they need calibration data")

    @cached_property
    def _embeddings(self) -> list[str]:
        return [space.name for space in self.graph.anatomy.spaces.values() if space.kind is Kind.EMBEDDING]


def add_moments(total: Moments | None, more: Moments) -> Moments:
    """Add moments to `total` in place, in float64 on the CPU."""
    names = ("xx", "yy", "xy", "x", "y")
    if total is None:
        return replace(more, **{name: getattr(more, name).cpu().double() for name in names})
    for name in names:
        getattr(total, name).add_(getattr(more, name).cpu())
    return replace(total, count=total.count + more.count)


def sum_moments(parts: Sequence[Moments]) -> Moments:
    """Moments over all parts' tokens."""
    first = parts[0]
    xx, yy, xy = (torch.stack([getattr(part, name) for part in parts]).sum(0) for name in ("xx", "yy", "xy"))
    if any(part.x is None or part.y is None for part in parts):
        return Moments(xx, yy, xy, count=first.count)
    x, y = (torch.stack([getattr(part, name) for part in parts]).sum(0) for name in ("x", "y"))
    return Moments(xx, yy, xy, x, y, sum(part.count for part in parts))


def _model_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _sum_normalised(parts: Sequence[Moments]) -> Moments:
    """Sum of moments, each divided by its mean square."""
    factors = [1 / _mean_square(part) for part in parts]
    without_products = [
        _scaled(replace(part, xy=part.xy[:0]), factor) for part, factor in zip(parts, factors, strict=True)
    ]
    # Block by block, or all depths would be in memory a second time.
    blocks = []
    for start in range(0, len(parts[0].xy), COMPARISON_BLOCK):
        rows = slice(start, start + COMPARISON_BLOCK)
        blocks.append(torch.stack([part.xy[rows] * f for part, f in zip(parts, factors, strict=True)]).sum(0))
    return replace(sum_moments(without_products), xy=torch.cat(blocks))


def _mean_square(moments: Moments) -> float:
    """Both models' mean square."""
    mean = (float(moments.xx.mean()) + float(moments.yy.mean())) / 2 / moments.count
    return mean if mean > 0 else 1.0


def _scaled(moments: Moments, factor: float) -> Moments:
    """Moments of features times √factor."""
    root = factor**0.5
    x = None if moments.x is None else moments.x * root
    y = None if moments.y is None else moments.y * root
    return Moments(moments.xx * factor, moments.yy * factor, moments.xy * factor, x, y, moments.count)
