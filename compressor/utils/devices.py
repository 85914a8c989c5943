"""Models on a device for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def on_device(models: Sequence[nn.Module], device: str | torch.device) -> Iterator[None]:
    """Move models to a device inside the block, and each back to its own device at the end.

    Args:
        models: modules with at least one parameter, each on one device.
        device: of torch, such as "cuda".
    """
    origins = [next(model.parameters()).device for model in models]
    try:
        for model in models:
            model.to(device)
        yield
    finally:
        for model, origin in zip(models, origins, strict=True):
            model.to(origin)
