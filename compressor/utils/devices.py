"""Models on a device for one block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def on_device(models: Sequence[nn.Module], device: str | torch.device) -> Iterator[None]:
    """Move models to a device inside the block, then each back to its own."""
    origins = [next(model.parameters()).device for model in models]
    try:
        for model in models:
            model.to(device)
        yield
    finally:
        for model, origin in zip(models, origins, strict=True):
            model.to(origin)
