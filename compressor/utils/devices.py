"""Models on a device for one block, and batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compressor.utils.distributed import device_of


@contextmanager
def on_device(models: Sequence[nn.Module], device: str | torch.device) -> Iterator[None]:
    """Move models to a device inside the block, then each back to its own; launched processes have a GPU each."""
    device = device_of(str(device))
    origins = [next(model.parameters()).device for model in models]
    try:
        for model in models:
            model.to(device)
        yield
    finally:
        for model, origin in zip(models, origins, strict=True):
            model.to(origin)


def moved_batches(batches: Sequence[Mapping[str, Tensor]], device: str | torch.device) -> list[dict[str, Tensor]]:
    """Batches on a device; launched processes have a GPU each."""
    device = device_of(str(device))
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]
