"""The number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Use `count` threads of torch inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Use `count` threads of torch and of linear algebra inside the block; None leaves them.

    ONNX Runtime follows: every session takes torch's number.
    """
    if count is None:
        yield
        return
    with threadpool_limits(count), torch_threads(count):
        yield
