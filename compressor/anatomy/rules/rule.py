"""The table of rules, and helpers.

Rules map dimensions of arguments to results'.  Without one all are pinned, which is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from compressor.anatomy.dims import Dim, Dims, unify


class Lookup(Protocol):
    """A tensor's dimensions; unknown tensors are constants."""

    def __call__(self, tensor: Tensor) -> Dims: ...


#: (dimensions of tensors, positional arguments, keyword arguments, result) -> dimensions of the result(s).
Rule = Callable[[Lookup, tuple[Any, ...], dict[str, Any], Any], Any]

#: {name of an operation: its rule}.
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors among nested arguments."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in tensors_in(value)]
    if isinstance(values, dict):
        return tensors_in(list(values.values()))
    return []


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, default: Any = None) -> Any:
    """An argument, by place or name."""
    return args[place] if len(args) > place else kwargs.get(name, default)


def broadcast(lookup: Lookup, tensors: Sequence[Tensor], shape: Sequence[int]) -> Dims:
    """Dimensions of an elementwise result."""
    merged: Dims = [Dim(1) for _ in shape]
    for tensor in tensors:
        dims = lookup(tensor)
        for place, dim in enumerate(dims, start=len(shape) - len(dims)):
            if place < 0 or dim.size == 1 or dim.size != shape[place]:
                continue
            if merged[place].size == 1:
                merged[place] = dim
            else:
                unify(merged[place], dim)
    return [dim if dim.size == size else Dim(size) for dim, size in zip(merged, shape, strict=True)]


def fresh_dims(dims: Dims) -> Dims:
    """The dimensions without marks."""
    return [dim.alias() for dim in dims]
