"""Processes that share the calibration samples of one fusion: each walks its part, and sums are added up.

All get the same sums and solve the same problems, so they stay in step.  Only the first one's student counts: what is
fitted by descent, it fits alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.errors import UserError
from compressor.fusion.calibration.batches import Batch, CalibrationSet
from compressor.utils import distributed


@dataclass(frozen=True)
class Processes:
    """The processes of a fusion, connected by `compressor.utils.distributed.init`; one by default.

    Attributes:
        rank: of this one, from 0.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def shared(self) -> bool:
        """Whether there are several."""
        return self.count > 1

    def part(self, batches: Sequence[Batch]) -> list[Batch]:
        """This process's samples: every `count`-th."""
        if not self.shared:
            return list(batches)
        parts: list[Batch] = []
        start = 0
        for batch in batches:
            size = len(next(iter(batch.values())))
            rows = torch.arange(size)[(self.rank - start) % self.count :: self.count]
            start += size
            if len(rows):
                parts.append({name: value[rows.to(value.device)] for name, value in batch.items()})
        return parts

    def part_of(self, calibration: CalibrationSet) -> CalibrationSet:
        """This process's samples of both parts.

        Raises:
            UserError: a process would have none to fit to.
        """
        if not self.shared:
            return calibration
        samples = sum(len(next(iter(batch.values()))) for batch in calibration.train)
        if samples < self.count:
            raise UserError(f"{samples} samples to fit to are too few for {self.count} processes: launch fewer")
        return CalibrationSet(self.part(calibration.train), self.part(calibration.held_out))

    def add_up(self, *tensors: Tensor) -> None:
        """Replace tensors by their sums over all processes."""
        for tensor in tensors if self.shared else ():
            self._in_place(tensor, distributed.sum_in_place)

    def take_first(self, *tensors: Tensor) -> None:
        """Replace tensors by the first process's."""
        for tensor in tensors if self.shared else ():
            self._in_place(tensor, distributed.copy_from_main)

    def total(self, value: float) -> float:
        """The sum of a number."""
        if not self.shared:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        self.add_up(total)
        return float(total)

    def first(self, value: float) -> float:
        """The first process's number."""
        if not self.shared:
            return value
        number = torch.tensor(value, dtype=torch.float64)
        self.take_first(number)
        return float(number)

    def least(self, value: int) -> int:
        """The least of a number."""
        if not self.shared:
            return value
        numbers = torch.zeros(self.count, dtype=torch.float64)
        numbers[self.rank] = value
        self.add_up(numbers)
        return int(numbers.min())

    def mean(self, rows: Tensor) -> Tensor:
        """Mean over the rows [T, ...] of all processes."""
        if not self.shared:
            return rows.mean(dim=0)
        total = rows.sum(dim=0, dtype=torch.float64)
        self.add_up(total)
        return (total / max(self.total(len(rows)), 1)).to(rows.dtype)

    @staticmethod
    def _in_place(tensor: Tensor, change: Callable[[Tensor], None]) -> None:
        values = tensor.detach().cpu().contiguous()
        change(values)
        if values.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(values)


#: One process.
ALONE = Processes()


def launched() -> Processes:
    """The processes that a launcher started with this one."""
    return Processes(distributed.rank(), distributed.world_size())
