"""Coordinates compared by their activations over calibration tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from compressor.anatomy import Anatomy, Role
from compressor.anatomy.queries import Maps, attention_columns, outgoing, reader
from compressor.anatomy.transform import transport_together
from compressor.fusion.calibration.batches import thinned_tokens
from compressor.fusion.calibration.layerwise import Tap
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.statistics import self_product, stacked_grams, token_rows
from compressor.fusion.features.base import HeadStatistics, SpaceStatistics
from compressor.fusion.teacher import FusionTeacher

#: Tokens from which maps of hidden units are chosen; more change little and cost N² each.
UNIT_TOKENS = 2304


class TeacherActivations:
    """What all teachers showed at one place of the walk, in the student's names.

    Args:
        sources: the teachers.
        anatomy: the student's anatomy.
        masks: which tokens of each batch count.
        tokens: token vectors in all batches together.
        thin: spots of which some token vectors are enough; the others are kept whole.
        linear: outputs of plain linear modules that are made again from the modules' inputs, which are recorded in
            their stead: they are narrower, and several modules share them.
    """

    def __init__(
        self,
        sources: Sequence[FusionTeacher],
        anatomy: Anatomy,
        masks: Masks,
        tokens: int,
        thin: Sequence[Tap] = (),
        linear: Sequence[Tap] = (),
    ) -> None:
        self.sources, self.anatomy, self.masks = sources, anatomy, masks
        self.thin, self.linear = frozenset(thin), frozenset(linear)
        #: Every how many tokens one is taken where about `UNIT_TOKENS` of them are enough.
        self.stride = max(1, round(tokens / UNIT_TOKENS))
        self._values: dict[tuple[int, int, Tap], Tensor] = {}
        self._variance: dict[Tap, Tensor] = {}
        self._pooled: dict[tuple[tuple[Tap, int, Role | None], ...], Tensor] = {}

    def record(self, teacher: int, batch: int, shown: Mapping[Tap, Tensor]) -> None:
        """Keep what one teacher showed of one batch."""
        for spot, value in shown.items():
            vectors = token_rows(value, self.masks.of(batch, spot[0]))
            self._values[teacher, batch, spot] = self._some(batch, spot, vectors) if spot in self.thin else vectors

    def has(self, teacher: int, spot: Tap) -> bool:
        return (teacher, 0, spot) in self._values

    def rows(self, teacher: int, batch: int, spot: Tap, columns: Tensor | None = None) -> Tensor:
        """Token vectors [T, n_k] of one teacher at one spot: all of them, unless the spot is thin."""
        if spot in self.linear:
            return linear(self._values[teacher, batch, input_tap(spot)], *self.weights(teacher, spot, columns))
        found = self._values[teacher, batch, spot]
        return found if columns is None else found.index_select(1, columns)

    def some_rows(self, teacher: int, batch: int, spot: Tap, columns: Tensor | None = None) -> Tensor:
        """About `UNIT_TOKENS` of all batches' token vectors, the same tokens for every teacher and spot."""
        if spot in self.linear:
            read = self._some(batch, spot, self._values[teacher, batch, input_tap(spot)])
            return linear(read, *self.weights(teacher, spot, columns))
        found = self.rows(teacher, batch, spot, columns)
        return found if spot in self.thin else self._some(batch, spot, found)

    def mapped(self, teacher: int, batch: int, spot: Tap, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What a linear spot's module would put out with another weight and bias."""
        return linear(self._values[teacher, batch, input_tap(spot)], weight, bias)

    def weights(self, teacher: int, spot: Tap, columns: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Weight [n_k, in] and bias of a linear spot's module in a teacher; rows of some outputs alone."""
        source = self.sources[teacher]
        module = cast(nn.Linear, source.model.get_submodule(source.own(spot[0])))
        weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
        if columns is None:
            return weight, bias
        return weight.index_select(0, columns), None if bias is None else bias.index_select(0, columns)

    def pooled(self, spot: Tap, columns: Sequence[Tensor] | None = None, role: Role | None = None) -> Tensor:
        """Some token vectors of all teachers side by side [T, Σ n_k]; of each the columns given."""
        key = ((spot, 0, role),)
        if key not in self._pooled:
            parts = []
            for batch in range(len(self.masks)):
                own: Sequence[Tensor | None] = columns or [None] * len(self.sources)
                parts.append(stacked_grams([self.some_rows(k, batch, spot, own[k]) for k in range(len(self.sources))]))
            self._pooled[key] = torch.cat(parts)
        return self._pooled[key]

    def variance(self, spot: Tap) -> Tensor:
        """Of every pooled coordinate over some tokens [Σ n_k], float64; students share it."""
        if spot not in self._variance:
            values = self.pooled(spot)
            self._variance[spot] = (values - values.mean(dim=0)).square_().mean(dim=0).double()
        return self._variance[spot]

    def _some(self, batch: int, spot: Tap, vectors: Tensor) -> Tensor:
        if self.stride == 1:
            return vectors
        mask, keys = self.masks.of(batch, spot[0]), self.masks.keys(batch)
        shape = (len(keys), len(vectors) // len(keys)) if mask is None else tuple(mask.shape)
        kept = thinned_tokens(keys, (shape[0], shape[1]), mask, self.stride)
        return vectors[kept] if len(kept) == len(vectors) else vectors


class ActivationFeatures:
    """Moments over the calibration tokens, targets transported by one student's maps.

    Args:
        seen: what the teachers showed.
        maps: the student's maps of each teacher.
    """

    def __init__(self, seen: TeacherActivations, maps: Maps) -> None:
        self.seen, self.maps, self.sources, self.masks = seen, maps, seen.sources, seen.masks
        self._composed: dict[tuple[int, Tap], tuple[Tensor, Tensor | None]] = {}

    def space(self, name: str) -> SpaceStatistics:
        step = reader(self.seen.anatomy, name)
        assert step is not None
        spot, target, key = (step.module, "in"), (step.module, "out"), step.writes
        return SpaceStatistics(
            outgoing(self.sources, self.maps, step),
            variance=lambda: self.seen.variance(spot),
            gram=lambda: _covariance(self.seen.pooled(spot)),
            cross=lambda: _covariance(self.seen.pooled(spot), self._some_targets(target, key)),
        )

    def _some_targets(self, spot: Tap, key: str | None) -> Tensor:
        return torch.cat([self._moved(batch, spot, key, self.seen.some_rows) for batch in range(len(self.masks))])

    def heads(self, name: str) -> HeadStatistics:
        anatomy = self.seen.anatomy
        step = reader(anatomy, name)
        assert step is not None
        read: Tap = (step.module, "in")

        def moments(role: Role) -> Tensor:
            spot, _ = attention_columns(anatomy, name, role)
            columns = [attention_columns(s.anatomy, s.own(name), role)[1] for s in self.sources]
            return _second_moment(self.seen.pooled(spot, columns, role))

        return HeadStatistics(
            outgoing(self.sources, self.maps, step),
            self.sources[0].space(name).head_dim,
            carry=lambda: _second_moment(self.seen.pooled(read)),
            queries=lambda: moments(Role.QUERY),
            keys=lambda: moments(Role.KEY),
        )

    def transported(self, batch: int, spot: Tap, key: str | None) -> Tensor:
        """Σ_k push_kᵀ x_k over the tokens of a batch, [T, m]; outputs without a map (key None) are averaged by α."""
        if spot in self.seen.linear and any(key in maps for maps in self.maps):
            parts = [self.seen.mapped(k, batch, spot, *self._compose(k, spot, key)) for k in range(len(self.sources))]
            return sum(parts[1:], start=parts[0])
        return self._moved(batch, spot, key, self.seen.rows)

    def _compose(self, teacher: int, spot: Tap, key: str | None) -> tuple[Tensor, Tensor | None]:
        """pushᵀ W and pushᵀ b: a module whose outputs are transported, in the module's precision."""
        if (teacher, spot) not in self._composed:
            weight, bias = self.seen.weights(teacher, spot)
            mapping = self.maps[teacher][key or ""]
            moved = None if bias is None else mapping.written(bias.double()).to(bias)
            self._composed[teacher, spot] = mapping.written(weight.double()).to(weight), moved
        return self._composed[teacher, spot]

    def part(self, batch: int, spot: Tap, columns: Sequence[Tensor], key: str | None) -> Tensor:
        """As `transported`, of some columns of each teacher's values."""
        return self._moved(batch, spot, key, lambda k, b, s: self.seen.rows(k, b, s, columns[k]))

    def _moved(self, batch: int, spot: Tap, key: str | None, take: Callable[[int, int, Tap], Tensor]) -> Tensor:
        values = [take(k, batch, spot) for k in range(len(self.sources))]
        found = [maps[key] for maps in self.maps if key in maps] if key is not None else []
        if found:
            return transport_together(found, values)
        parts = [source.weight * value for source, value in zip(self.sources, values, strict=True)]
        return sum(parts[1:], start=parts[0])


def input_tap(spot: Tap) -> Tap:
    """Where what a module reads is seen."""
    return spot[0], "in"


def _second_moment(values: Tensor) -> Tensor:
    """E[xᵀx] of rows [T, n], float64."""
    return self_product(values).double() / len(values)


def _covariance(values: Tensor, others: Tensor | None = None) -> Tensor:
    """E[(x - x̄)ᵀ(y - ȳ)] of rows [T, n] and [T, m], float64; centred first, so that nothing cancels."""
    centred = values - values.mean(dim=0)
    product = self_product(centred) if others is None else centred.T @ (others - others.mean(dim=0))
    return product.double() / len(values)
