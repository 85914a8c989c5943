"""Coordinates compared by their activations over calibration tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from compressor.anatomy import Map, Role
from compressor.anatomy.trace import logits_of
from compressor.fusion.moments import HeadStatistics, SpaceStatistics
from compressor.fusion.sources import Source
from compressor.fusion.statistics import Gram, rows, stacked
from compressor.fusion.structure import attention_slice, outgoing, reader, residual_spots
from compressor.fusion.walk import Spot, watching

#: Tokens from which maps of hidden units are chosen; more change little and cost N² each.
UNIT_TOKENS = 2304


class Seen:
    """What all teachers showed at one place of the walk; moments that do not depend on the student are kept.

    Args:
        sources: the teachers.
        masks: per batch, which tokens count.
        tokens: token vectors in all batches together.
        thin: spots of which some token vectors are enough; the others are kept whole.
    """

    def __init__(
        self, sources: Sequence[Source], masks: Sequence[Tensor | None], tokens: int, thin: Sequence[Spot] = ()
    ) -> None:
        self.sources, self.masks, self.thin = sources, masks, frozenset(thin)
        #: Every how many tokens one is taken where about `UNIT_TOKENS` of them are enough.
        self.stride = max(1, round(tokens / UNIT_TOKENS))
        self._values: dict[tuple[int, int, Spot], Tensor] = {}
        self._pooled: dict[tuple[tuple[Spot, int | None, int | None], ...], Tensor] = {}

    def record(self, teacher: int, batch: int, shown: Mapping[Spot, Tensor]) -> None:
        """Keep what one teacher showed of one batch."""
        for spot, value in shown.items():
            vectors = rows(value, self.masks[batch])
            self._values[teacher, batch, spot] = self._some(batch, vectors).clone() if spot in self.thin else vectors

    def rows(self, teacher: int, batch: int, spot: Spot) -> Tensor:
        """Token vectors [T, n_k] of one teacher at one spot: all of them, unless the spot is thin."""
        return self._values[teacher, batch, spot]

    def some_rows(self, teacher: int, batch: int, spot: Spot) -> Tensor:
        """About `UNIT_TOKENS` of all batches' token vectors, the same tokens for every teacher and spot."""
        found = self.rows(teacher, batch, spot)
        return found if spot in self.thin else self._some(batch, found)

    def pooled(self, places: Sequence[tuple[Spot, slice]]) -> Tensor:
        """Some token vectors of all teachers side by side [T, Σ n_k]: per teacher a spot and the columns of it."""
        key = tuple((spot, part.start, part.stop) for spot, part in places)
        if key not in self._pooled:
            parts = [
                stacked([self.some_rows(k, batch, spot)[:, part] for k, (spot, part) in enumerate(places)])
                for batch in range(len(self.masks))
            ]
            self._pooled[key] = torch.cat(parts)
        return self._pooled[key]

    def _some(self, batch: int, vectors: Tensor) -> Tensor:
        return vectors[batch % self.stride :: self.stride]


class ActivationFeatures:
    """Moments over the calibration tokens, targets transported by one student's residual maps.

    Args:
        seen: what the teachers showed.
        residual: the student's residual map of each teacher.
    """

    def __init__(self, seen: Seen, residual: Sequence[Map]) -> None:
        self.seen, self.residual, self.sources, self.masks = seen, residual, seen.sources, seen.masks

    def values(self, teacher: int, batch: int, spot: Spot) -> Tensor:
        """Token vectors [T, n_k] of one teacher."""
        return self.seen.rows(teacher, batch, spot)

    def space(self, name: str) -> SpaceStatistics:
        step = reader(self.sources[0].anatomy, name)
        places = [((step.module, "in"), slice(None))] * len(self.sources)
        target = (step.module, "out")
        return SpaceStatistics(
            outgoing(self.sources, self.residual, step),
            variance=lambda: self.seen.pooled(places).var(dim=0, correction=0).double(),
            gram=lambda: _covariance(self.seen.pooled(places)),
            cross=lambda: _covariance(self.seen.pooled(places), self._some_targets(target, fixed=step.writes is None)),
        )

    def _some_targets(self, spot: Spot, *, fixed: bool) -> Tensor:
        found = [self._moved(batch, spot, self.seen.some_rows, fixed=fixed) for batch in range(len(self.masks))]
        return torch.cat(found)

    def heads(self, name: str) -> HeadStatistics:
        step = reader(self.sources[0].anatomy, name)
        inputs = [((step.module, "in"), slice(None))] * len(self.sources)
        places = {
            role: [attention_slice(source.anatomy, name, role) for source in self.sources]
            for role in (Role.QUERY, Role.KEY)
        }
        spaces = [source.anatomy.spaces[name] for source in self.sources]
        return HeadStatistics(
            outgoing(self.sources, self.residual, step),
            spaces[0].head_dim,
            carry=lambda: _second_moment(self.seen.pooled(inputs)),
            queries=lambda: _second_moment(self.seen.pooled(places[Role.QUERY])),
            keys=lambda: _second_moment(self.seen.pooled(places[Role.KEY])),
        )

    def transported(self, batch: int, spot: Spot, *, fixed: bool = False) -> Tensor:
        """Σ_k push_kᵀ x_k over the tokens of a batch, [T, m]; fixed outputs are averaged by α."""
        return self._moved(batch, spot, self.seen.rows, fixed=fixed)

    def _moved(self, batch: int, spot: Spot, take: Callable[[int, int, Spot], Tensor], *, fixed: bool) -> Tensor:
        parts = []
        for k, (source, mapping) in enumerate(zip(self.sources, self.residual, strict=True)):
            value = take(k, batch, spot)
            parts.append(source.weight * value if fixed else mapping.transport(value))
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def _second_moment(values: Tensor) -> Tensor:
    """E[xᵀx] of rows [T, n], float64."""
    return (values.T @ values).double() / len(values)


def _covariance(values: Tensor, others: Tensor | None = None) -> Tensor:
    """E[(x - x̄)ᵀ(y - ȳ)] of rows [T, n] and [T, m], float64; centred first, so that nothing cancels."""
    centred = values - values.mean(dim=0)
    other = centred if others is None else others - others.mean(dim=0)
    return (centred.T @ other).double() / len(values)


@torch.no_grad()
def residual_gram(sources: Sequence[Source], batches: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Joint second moments of all teachers' residual coordinates over all depths, [Σ n_k, Σ n_k].

    Every depth counts alike: its moments are divided by the teachers' mean square there (weighted by α), which grows
    along the residual stream while the norms that read it take it out again.
    """
    spots = residual_spots(sources[0].anatomy)
    grams: dict[Spot, Gram] = {}
    for batch in batches:
        mask = batch.get("attention_mask")
        keep = None if mask is None or bool(mask.all()) else mask.bool()
        seen = [_see(source, spots, batch) for source in sources]
        for spot in spots:
            values = stacked([rows(one[spot], keep) for one in seen])
            grams.setdefault(spot, Gram(values.shape[1])).add(values)
    share = torch.cat([torch.full((s.anatomy.residual.size,), s.weight / s.anatomy.residual.size) for s in sources])
    moments = [gram.second_moment() for gram in grams.values()]
    return torch.stack([moment / (moment.diagonal() @ share.double()) for moment in moments]).mean(0)


def _see(source: Source, spots: Sequence[Spot], batch: Mapping[str, Tensor]) -> dict[Spot, Tensor]:
    with watching(source.model, spots) as seen:
        logits_of(source.model, {name: value for name, value in batch.items() if name != "labels"})
    return seen
