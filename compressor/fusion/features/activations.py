"""Compare coordinates by activations over calibration tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from compressor.anatomy import Anatomy, Role
from compressor.anatomy.hooks import Tap
from compressor.anatomy.queries import Maps, attention_columns, outgoing, reader
from compressor.anatomy.transform import transport_together
from compressor.fusion.calibration.batches import thinned_tokens
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.processes import ALONE, Processes
from compressor.fusion.calibration.statistics import join_coordinates, self_product, token_rows
from compressor.fusion.features.base import HeadStatistics, SpaceStatistics
from compressor.fusion.features.weight_features import WeightFeatures
from compressor.fusion.teacher import FusionTeacher
from compressor.utils.tensor_store import StoredTensor, TensorStore

#: Tokens for maps of hidden units; more change little and cost N² each.
UNIT_TOKENS = 2304


class TeacherActivations:
    """Activations of all teachers at one build step, in the student's names.

    Args:
        thin: taps that need fewer tokens.
        linear: outputs recomputed from recorded inputs, which are narrower.
        store: keeps the values; in memory if omitted.
        processes: those whose tokens the moments are of; the masks are of this one's.
    """

    def __init__(
        self,
        teachers: Sequence[FusionTeacher],
        anatomy: Anatomy,
        masks: Masks,
        tokens: int,
        thin: Sequence[Tap] = (),
        linear: Sequence[Tap] = (),
        store: TensorStore | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.teachers, self.anatomy, self.masks, self.processes = teachers, anatomy, masks, processes
        self.thin, self.linear = frozenset(thin), frozenset(linear)
        #: One token in so many is taken for thin rows.
        self.stride = max(1, round(tokens / UNIT_TOKENS))
        self._store = store or TensorStore()
        self._values: dict[tuple[int, int, Tap], StoredTensor] = {}
        self._variance: dict[Tap, Tensor] = {}
        self._pooled: dict[tuple[Tap, Role | None], Tensor] = {}
        self._moments: dict[tuple[Tap, Role | None, bool], Tensor] = {}

    def record(self, teacher: int, batch: int, values: Mapping[Tap, Tensor]) -> None:
        """Keep one teacher's values of one batch."""
        for tap, value in values.items():
            vectors = token_rows(value, self.masks.of(batch, tap[0]))
            kept = self._thinned(batch, tap, vectors) if tap in self.thin else vectors
            self._values[teacher, batch, tap] = self._store.put(kept)

    def rows(self, teacher: int, batch: int, tap: Tap, columns: Tensor | None = None) -> Tensor:
        """Token vectors [T, n_k]; fewer if thin."""
        if tap in self.linear:
            return linear(self._values[teacher, batch, input_tap(tap)].get(), *self.weights(teacher, tap, columns))
        values = self._values[teacher, batch, tap].get()
        return values if columns is None else values.index_select(1, columns.to(values.device))

    def thin_rows(self, teacher: int, batch: int, tap: Tap, columns: Tensor | None = None) -> Tensor:
        """A batch's part of about `UNIT_TOKENS` tokens."""
        if tap in self.linear:
            inputs = self._thinned(batch, tap, self._values[teacher, batch, input_tap(tap)].get())
            return linear(inputs, *self.weights(teacher, tap, columns))
        values = self.rows(teacher, batch, tap, columns)
        return values if tap in self.thin else self._thinned(batch, tap, values)

    def mapped(self, teacher: int, batch: int, tap: Tap, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A linear tap's output with another weight and bias."""
        return linear(self._values[teacher, batch, input_tap(tap)].get(), weight, bias)

    def weights(self, teacher: int, tap: Tap, columns: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Weight [n_k, inputs] and bias of a linear tap."""
        model, name = self.teachers[teacher].model, self.teachers[teacher].local_name(tap[0])
        module = cast(nn.Linear, model.get_submodule(name))
        weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
        if columns is None:
            return weight, bias
        columns = columns.to(weight.device)
        return weight.index_select(0, columns), None if bias is None else bias.index_select(0, columns)

    def pooled(self, tap: Tap, columns: Sequence[Tensor] | None = None, role: Role | None = None) -> Tensor:
        """Thin rows of all batches and teachers [T, Σ n_k]."""
        if (tap, role) not in self._pooled:
            parts = []
            for batch in range(len(self.masks)):
                selected: Sequence[Tensor | None] = columns or [None] * len(self.teachers)
                rows = [self.thin_rows(k, batch, tap, selected[k]) for k in range(len(self.teachers))]
                parts.append(join_coordinates(rows))
            self._pooled[tap, role] = torch.cat(parts)
        return self._pooled[tap, role]

    def variance(self, tap: Tap) -> Tensor:
        """Variance of pooled coordinates [Σ n_k], float64."""
        if tap not in self._variance:
            values, mean = self.pooled(tap), self.processes.mean
            self._variance[tap] = mean((values - mean(values)).square_()).cpu().double()
        return self._variance[tap]

    def second_moment(self, tap: Tap, columns: Sequence[Tensor] | None = None, role: Role | None = None) -> Tensor:
        """E[xᵀx] of pooled coordinates [Σ n_k, Σ n_k], float64; students share it."""
        if (tap, role, False) not in self._moments:
            self._moments[tap, role, False] = self._mean_product(self.pooled(tap, columns, role))
        return self._moments[tap, role, False]

    def covariance(self, tap: Tap) -> Tensor:
        """Covariance of pooled coordinates [Σ n_k, Σ n_k], float64; students share it."""
        if (tap, None, True) not in self._moments:
            self._moments[tap, None, True] = self.covariance_of(self.pooled(tap))
        return self._moments[tap, None, True]

    def covariance_of(self, values: Tensor, others: Tensor | None = None) -> Tensor:
        """E[(x - x̄)ᵀ(y - ȳ)] of thin rows of all processes, float64; centred first against cancellation."""
        mean = self.processes.mean
        centred = values - mean(values)
        return self._mean_product(centred, None if others is None else others - mean(others))

    def _mean_product(self, values: Tensor, others: Tensor | None = None) -> Tensor:
        """E[xᵀy] of rows [T, n] and [T, m] of all processes, float64."""
        total = self_product(values) if others is None else (values.T @ others).cpu().double()
        self.processes.add_up(total)
        return total.div_(self.processes.total(len(values)))

    def release(self) -> None:
        """Drop what only maps need, once all students have theirs."""
        self._moments.clear()
        self._pooled.clear()

    def _thinned(self, batch: int, tap: Tap, vectors: Tensor) -> Tensor:
        if self.stride == 1:
            return vectors
        mask, keys = self.masks.of(batch, tap[0]), self.masks.keys(batch)
        shape = (len(keys), len(vectors) // len(keys)) if mask is None else tuple(mask.shape)
        selected = thinned_tokens(keys, (shape[0], shape[1]), mask, self.stride)
        return vectors[selected.to(vectors.device)] if len(selected) == len(vectors) else vectors


class ActivationFeatures:
    """Moments over calibration tokens, with one student's maps."""

    def __init__(self, activations: TeacherActivations, maps: Maps) -> None:
        self.activations, self.maps = activations, maps
        self.teachers, self.masks = activations.teachers, activations.masks
        #: For what no module that is called reads.
        self._by_weights = WeightFeatures(activations.teachers, maps, activations.anatomy)
        self._composed: dict[tuple[int, Tap], tuple[Tensor, Tensor | None]] = {}

    def space(self, name: str) -> SpaceStatistics:
        op = reader(self.activations.anatomy, name)
        if op is None:
            return self._by_weights.space(name)
        read, written, key = (op.module, "in"), (op.module, "out"), op.writes
        return SpaceStatistics(
            outgoing(self.teachers, self.maps, op),
            variance=lambda: self.activations.variance(read),
            gram=lambda: self.activations.covariance(read),
            cross=lambda: self.activations.covariance_of(
                self.activations.pooled(read), self._thin_targets(written, key)
            ),
        )

    def heads(self, name: str) -> HeadStatistics:
        anatomy = self.activations.anatomy
        op = reader(anatomy, name)
        if op is None:
            return self._by_weights.heads(name)
        read: Tap = (op.module, "in")

        def moments(role: Role) -> Tensor:
            tap, _ = attention_columns(anatomy, name, role)
            columns = [attention_columns(t.anatomy, t.local_name(name), role)[1] for t in self.teachers]
            return self.activations.second_moment(tap, columns, role)

        return HeadStatistics(
            outgoing(self.teachers, self.maps, op),
            self.teachers[0].space(name).head_dim,
            outputs=lambda: self.activations.second_moment(read),
            queries=lambda: moments(Role.QUERY),
            keys=lambda: moments(Role.KEY),
        )

    def transported(self, batch: int, tap: Tap, key: str | None) -> Tensor:
        """Σ_k push_kᵀ x_k over a batch, [T, m]; without maps the weighted mean."""
        if tap in self.activations.linear and any(key in maps for maps in self.maps):
            teachers = range(len(self.teachers))
            parts = [self.activations.mapped(k, batch, tap, *self._compose(k, tap, key)) for k in teachers]
            return sum(parts[1:], start=parts[0])
        return self._transport(batch, tap, key, self.activations.rows)

    def part(self, batch: int, tap: Tap, columns: Sequence[Tensor], key: str | None) -> Tensor:
        """As `transported`, of some columns."""
        return self._transport(batch, tap, key, lambda k, b, t: self.activations.rows(k, b, t, columns[k]))

    def _thin_targets(self, tap: Tap, key: str | None) -> Tensor:
        batches = range(len(self.masks))
        return torch.cat([self._transport(batch, tap, key, self.activations.thin_rows) for batch in batches])

    def _compose(self, teacher: int, tap: Tap, key: str | None) -> tuple[Tensor, Tensor | None]:
        """pushᵀ W and pushᵀ b, in the module's precision."""
        if (teacher, tap) not in self._composed:
            weight, bias = self.activations.weights(teacher, tap)
            mapping = self.maps[teacher][key or ""]
            pushed_bias = None if bias is None else mapping.written(bias.cpu().double()).to(bias)
            self._composed[teacher, tap] = mapping.written(weight.cpu().double()).to(weight), pushed_bias
        return self._composed[teacher, tap]

    def _transport(self, batch: int, tap: Tap, key: str | None, take: Callable[[int, int, Tap], Tensor]) -> Tensor:
        values = [take(k, batch, tap) for k in range(len(self.teachers))]
        mappings = [maps[key] for maps in self.maps if key in maps] if key is not None else []
        if mappings:
            return transport_together(mappings, values)
        parts = [teacher.weight * value for teacher, value in zip(self.teachers, values, strict=True)]
        return sum(parts[1:], start=parts[0])


def input_tap(tap: Tap) -> Tap:
    """The input of a tap's module."""
    return tap[0], "in"
