"""The number of threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

#: Read by libraries of linear algebra when they are loaded.
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


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
    with _variables_set(str(count)), threadpool_limits(count), torch_threads(count):
        yield


@contextmanager
def _variables_set(value: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, value))
    try:
        yield
    finally:
        for name, former in before.items():
            if former is None:
                del os.environ[name]
            else:
                os.environ[name] = former
