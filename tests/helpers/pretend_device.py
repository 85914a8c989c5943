"""A second device that exists only in tests: arithmetic of the CPU that refuses operands of two devices, as CUDA does.

`DEVICE` is spelled cpu:1.  Inside `pretend_device()` tensors that are moved there are wrapped; an operation on a
wrapped and an unwrapped tensor (that has dimensions) raises, `.cpu()` unwraps, `.item()` works.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cpu", 1)


class OnDevice(torch.Tensor):
    """A CPU tensor that says it is on `DEVICE`."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnDevice:
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE, requires_grad=inner.requires_grad,
        )  # fmt: skip

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def data_ptr(self) -> int:
        """Its own, by which tensors are told apart."""
        return self.inner.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied: torch.Tensor = OnDevice(self.inner.clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    def __repr__(self) -> str:
        return f"OnDevice({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func.overloadpacket.__name__
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    there = [value for value in tensors if isinstance(value, OnDevice)]
    here = [value for value in tensors if not isinstance(value, OnDevice) and value.dim() > 0]
    if there and here and name not in ("_to_copy", "copy_"):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found {DEVICE} and cpu")

    def unwrapped(value: Any) -> Any:
        return value.inner if isinstance(value, OnDevice) else value

    wanted = kwargs.get("device")
    plain = {**kwargs, "device": torch.device("cpu")} if wanted is not None else kwargs
    result = func(*tree_map(unwrapped, args), **tree_map(unwrapped, plain))
    if name == "copy_" or (name.endswith("_") and there and isinstance(args[0], OnDevice)):
        return args[0]
    goes = torch.device(wanted) == DEVICE if wanted is not None else bool(there)

    def wrapped(value: Any) -> Any:
        return (
            OnDevice(value) if goes and isinstance(value, torch.Tensor) and not isinstance(value, OnDevice) else value
        )

    return tree_map(wrapped, result)


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """Make `DEVICE` usable; modules moved there get wrapped parameters."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Mode():
            yield DEVICE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
