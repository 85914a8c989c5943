"""Rules that reshape, repeat, cut or join."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from compressor.anatomy.dims import Dim, Dims, concat, pin, product, split_concat, split_product, unify
from compressor.anatomy.rules.rule import Lookup, argument, broadcast, rule


@rule("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "reshape_as")
def _reshape(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    old, new = [dim for dim in lookup(args[0]) if dim.size > 1], list(result.shape)
    reshaped: Dims = []
    while new:
        if new[0] == 1:
            reshaped.append(Dim(new.pop(0)))
            continue
        group, sizes = [old.pop(0)], [new.pop(0)]
        while (before := math.prod(dim.size for dim in group)) != (after := math.prod(sizes)):
            if before < after:
                group.append(old.pop(0))
            else:
                sizes.append(new.pop(0))
        reshaped += group if len(group) == len(sizes) == 1 else split_product(product(group), sizes)
    return reshaped


@rule("transpose", "swapaxes", "transpose_")
def _transpose(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = list(lookup(args[0]))
    first = argument(args, kwargs, 1, "dim0", kwargs.get("axis0"))
    second = argument(args, kwargs, 2, "dim1", kwargs.get("axis1"))
    dims[first], dims[second] = dims[second], dims[first]
    return dims


@rule("t", "T", "mT", "adjoint", "numpy_T")
def _flip(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = list(lookup(args[0]))
    return dims[:-2] + dims[-2:][::-1]


@rule("permute")
def _permute(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    order = kwargs.get("dims") or (args[1] if isinstance(args[1], (tuple, list)) else args[1:])
    dims = lookup(args[0])
    return [dims[place] for place in order]


@rule("movedim", "moveaxis")
def _movedim(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = lookup(args[0])
    ends = (argument(args, kwargs, 1, "source"), argument(args, kwargs, 2, "destination"))
    source, destination = ([place % len(dims) for place in ([end] if isinstance(end, int) else end)] for end in ends)
    moved = dict(zip(destination, source, strict=True))
    rest = iter([dim for place, dim in enumerate(dims) if place not in source])
    return [dims[moved[place]] if place in moved else next(rest) for place in range(len(dims))]


@rule("unsqueeze", "squeeze")
def _squeeze(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    real = iter([dim for dim in lookup(args[0]) if dim.size > 1])
    return [next(real) if size > 1 else Dim(1) for size in result.shape]


@rule("expand", "expand_as", "broadcast_to")
def _expand(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    aligned = _aligned(lookup(args[0]), result)
    return [dim if dim.size == size else Dim(size) for dim, size in zip(aligned, result.shape, strict=True)]


@rule("repeat", "tile")
def _repeat(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    aligned = _aligned(lookup(args[0]), result)
    return [product([Dim(size // dim.size), dim]) for dim, size in zip(aligned, result.shape, strict=True)]


def _aligned(dims: Dims, result: Tensor) -> Dims:
    """Dimensions padded in front to the result's."""
    return [Dim(1)] * (result.dim() - len(dims)) + list(dims)


@rule("repeat_interleave")
def _interleave(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = lookup(args[0])
    return [product([dim, Dim(size // dim.size)]) for dim, size in zip(dims, result.shape, strict=True)]


@rule("chunk", "split", "tensor_split", "split_with_sizes")
def _split(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> list[Dims]:
    place = argument(args, kwargs, 2, "dim", 0)
    dims = lookup(args[0])
    parts = split_concat(dims[place], [part.shape[place] for part in result])
    place %= len(dims)
    return [[*dims[:place], part, *dims[place + 1 :]] for part in parts]


@rule("glu")
def _glu(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    """Values times gates, which stand side by side."""
    dims = lookup(args[0])
    place = argument(args, kwargs, 1, "dim", -1) % len(dims)
    values, gates = split_concat(dims[place], [result.shape[place]] * 2)
    unify(values, gates)
    return [*dims[:place], values, *dims[place + 1 :]]


@rule("cat", "concat", "concatenate")
def _cat(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    parts = [lookup(tensor) for tensor in args[0] if tensor.dim() == result.dim()]
    place = argument(args, kwargs, 1, "dim", 0) % result.dim()
    joined = list(parts[0])
    for part in parts[1:]:
        for index, dim in enumerate(part):
            if index != place:
                unify(joined[index], dim)
    joined[place] = concat([part[place] for part in parts if part[place].size > 0])
    return joined


@rule("stack")
def _stack(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    place = argument(args, kwargs, 1, "dim", 0) % result.dim()
    dims = broadcast(lookup, args[0], args[0][0].shape)
    return [*dims[:place], Dim(len(args[0]), pinned=True), *dims[place:]]


@rule("index_add_", "index_add", "index_copy_", "scatter_add_", "index_copy")
def _index_add(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims, added = lookup(args[0]), lookup(argument(args, kwargs, 3, "source"))
    place = int(argument(args, kwargs, 1, "dim")) % len(dims)
    for index, pair in enumerate(zip(dims, added, strict=True)):
        if index == place:
            pin(*pair)
        else:
            unify(*pair)
    return dims
