"""Statistics of residual streams layer by layer: sums of one layer at a time are in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from compressor.anatomy import Anatomy
from compressor.anatomy.hooks import Tap
from compressor.anatomy.queries import space_taps
from compressor.fusion.calibration.batches import Batch
from compressor.fusion.calibration.layerwise import LayerwiseRunner
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.processes import ALONE, Processes
from compressor.fusion.calibration.span import capture_span
from compressor.fusion.calibration.statistics import Gram, join_coordinates, token_rows
from compressor.fusion.plan import BuildPlan
from compressor.fusion.teacher import FusionTeacher
from compressor.utils.tensor_store import StoredTensor, TensorStore


class MeanMoment:
    """The sum of joint second moments, each divided by its mean square, whose growth norms cancel.

    Attributes:
        total: [Σ n_k, Σ n_k] float64.
    """

    def __init__(self, teachers: Sequence[FusionTeacher], space: str) -> None:
        sizes = [teacher.space(space).size for teacher in teachers]
        shares = [torch.full((n,), t.weight / n) for n, t in zip(sizes, teachers, strict=True)]
        self._share = torch.cat(shares).double()
        self.total = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64)

    def add(self, gram: Gram) -> None:
        """Add one depth's."""
        moment = gram.second_moment()
        self.total += moment / (moment.diagonal() @ self._share).clamp(min=1e-30)


@torch.no_grad()
def streamed_moments(
    teachers: Sequence[FusionTeacher],
    anatomy: Anatomy,
    spaces: Sequence[str],
    batches: Sequence[Batch],
    store: TensorStore,
    processes: Processes = ALONE,
) -> dict[str, Tensor]:
    """Mean joint second moments over all depths, {space: [Σ n_k, Σ n_k]}, from one walk of each teacher.

    Args:
        batches: this process's.
    """
    return _Walk(teachers, anatomy, spaces, batches, store, processes).moments()


class _Walk:
    def __init__(
        self,
        teachers: Sequence[FusionTeacher],
        anatomy: Anatomy,
        spaces: Sequence[str],
        batches: Sequence[Batch],
        store: TensorStore,
        processes: Processes,
    ) -> None:
        self.teachers, self.anatomy, self.plan, self.store = teachers, anatomy, BuildPlan(anatomy), store
        self.taps = {space: space_taps(anatomy, space) for space in spaces}
        self.masks, self.processes = Masks(batches, anatomy), processes
        self.means = {space: MeanMoment(teachers, space) for space in spaces}
        self.runners = [
            LayerwiseRunner(t.model, [stack.layers for stack in t.anatomy.stacks], batches, t.name, store)
            for t in teachers
        ]

    def moments(self) -> dict[str, Tensor]:
        every = list(dict.fromkeys(tap for taps in self.taps.values() for tap in taps))
        after = {item.module for item in self.plan.tail}
        outside = [tap for tap in every if self._layer(tap) is None]
        before = [tap for tap in outside if tap[0] not in after]
        for index, stack in enumerate(self.anatomy.stacks):
            first: dict[tuple[int, int, Tap], StoredTensor] = {}
            for k, runner in enumerate(self.runners):
                runner.start_stack(index, before if index == 0 else (), partial(self._keep, first, k))
            self._add(before if index == 0 else (), first)
            for layer in stack.layers:
                self._walk_layer(layer, [tap for tap in every if self._layer(tap) == layer], stack.runs)
        last: dict[tuple[int, int, Tap], StoredTensor] = {}
        tail = [tap for tap in outside if tap[0] in after]
        for k, runner in enumerate(self.runners) if tail else ():
            runner.capture_tail(tail, partial(self._keep, last, k))
        self._add(tail, last)
        return {space: mean.total / len(self.taps[space]) for space, mean in self.means.items()}

    def _walk_layer(self, layer: str, taps: Sequence[Tap], runs: int) -> None:
        """Run the teachers' corresponding layers."""
        kept: dict[tuple[int, int, Tap], StoredTensor] = {}
        waiting = set(self.plan.layer_plans[layer].stream_taps)
        for k, (teacher, runner) in enumerate(zip(self.teachers, self.runners, strict=True)):
            start = runner.kept_hidden()
            capture_span(runner, teacher, layer, taps, waiting, partial(self._keep, kept, k))
            if runs > 1:
                runner.run_repeatedly(teacher.local_name(layer), runs, start)
        self._add(taps, kept)

    def _keep(
        self, kept: dict[tuple[int, int, Tap], StoredTensor], teacher: int, batch: int, values: Mapping[Tap, Tensor]
    ) -> None:
        for tap, value in values.items():
            kept[teacher, batch, tap] = self.store.put(token_rows(value, self.masks.of(batch, tap[0])))

    def _add(self, taps: Sequence[Tap], kept: Mapping[tuple[int, int, Tap], StoredTensor]) -> None:
        """Add the moments of taps of each space."""
        for space, mean in self.means.items():
            sizes = [teacher.space(space).size for teacher in self.teachers]
            for tap in self.taps[space]:
                if tap not in taps:
                    continue
                gram = Gram(sum(sizes))
                for batch in range(len(self.masks)):
                    # A head may read several tokens side by side.
                    parts = [kept[k, batch, tap].get().reshape(-1, size) for k, size in enumerate(sizes)]
                    gram.add(join_coordinates(parts))
                gram.add_up(self.processes)
                mean.add(gram)

    def _layer(self, tap: Tap) -> str | None:
        return next((layer for layer in self.anatomy.layers if f"{tap[0]}.".startswith(f"{layer}.")), None)
