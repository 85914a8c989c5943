"""Batches that are tensors already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from compressor.models.tasks.task import Task


@dataclass(frozen=True)
class TensorName:
    """The name of given batches, where a split has one."""

    name: str
    notes: tuple[str, ...] = ()


class TensorBatches:
    """Batches that the user made, as `compressor.data.batches.Batches` are used."""

    def __init__(self, batches: Sequence[Mapping[str, Tensor]], name: str, task: Task) -> None:
        self._batches = batches
        self.split = TensorName(name)
        self.task = task
        self.domains = None
        self.labelled = all("labels" in batch for batch in batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (dict(batch) for batch in self._batches)
