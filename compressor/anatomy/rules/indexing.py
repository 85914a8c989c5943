"""Rules of indexing operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compressor.anatomy.dims import Dim, Dims, pin, select_dim, slice_dim, split_concat, unify
from compressor.anatomy.rules.rule import Lookup, argument, broadcast, rule, tensors_in


@rule("unbind")
def _unbind(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> list[Dims]:
    dims = lookup(args[0])
    place = argument(args, kwargs, 1, "dim", 0) % len(dims)
    return [select_dim(dims, place, index) for index in range(len(result))]


@rule("select")
def _select(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = lookup(args[0])
    return select_dim(dims, argument(args, kwargs, 1, "dim") % len(dims), argument(args, kwargs, 2, "index"))


@rule("narrow")
def _narrow(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = list(lookup(args[0]))
    place, start = argument(args, kwargs, 1, "dim") % len(dims), int(argument(args, kwargs, 2, "start"))
    dims[place] = _stretch(dims[place], start, start + result.shape[place])
    return dims


def _stretch(dim: Dim, start: int, stop: int) -> Dim:
    """Coordinates [start, stop)."""
    if stop - start == dim.size:
        return dim
    sizes = [start, stop - start, dim.size - stop]
    parts = split_concat(dim, [size for size in sizes if size > 0])
    return parts[1 if start > 0 else 0] if stop > start else Dim(0)


@rule("__getitem__")
def _getitem(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    tensor, index = args
    items = _spelled_out(tensor, index)
    dims = lookup(tensor)
    # Single coordinates first, in reverse: they may change other dimensions.
    for spot in range(len(items) - 1, -1, -1):
        if not isinstance(items[spot], (slice, type(None))) and not (
            isinstance(items[spot], Tensor) and items[spot].dim()
        ):
            place = sum(_dims_taken(item) for item in items[:spot] if item is not None)
            dims = select_dim(dims, place, int(items[spot]))
            del items[spot]
    for spot, item in enumerate(items):
        if isinstance(item, slice):
            place = sum(_dims_taken(before) for before in items[:spot] if before is not None)
            start, stop, step = item.indices(dims[place].size)
            if step == 1 and stop - start < dims[place].size and (parts := slice_dim(dims, place, start, stop)):
                dims, items[spot] = parts, slice(None)
    remaining, selected, advanced, where = list(dims), [], [], None
    for item in items:
        if item is None:
            selected.append(Dim(1))
        elif isinstance(item, slice):
            selected.append(_sliced(remaining.pop(0), item))
        else:
            where = len(selected) if where is None else where
            advanced.append(item)
            for _ in range(_dims_taken(item)):
                pin(remaining.pop(0))
    if where is not None:
        shape = result.shape[where : where + result.dim() - len(selected)]
        if any(_is_mask(item) for item in advanced):
            inner = [Dim(size, pinned=True) for size in shape]
        else:
            inner = broadcast(lookup, advanced, shape)
        selected[where:where] = inner
    return selected


def _spelled_out(tensor: Tensor, index: Any) -> list[Any]:
    """Index entries without ellipsis."""
    items = list(index) if isinstance(index, tuple) else [index]
    # A list of one place is a slice of length one (Falcon).
    items = [
        slice(item[0], item[0] + 1 or None)
        if isinstance(item, list) and len(item) == 1 and type(item[0]) is int
        else item
        for item in items
    ]
    if not any(item is Ellipsis for item in items):
        items.append(Ellipsis)
    spot = next(place for place, item in enumerate(items) if item is Ellipsis)
    consumed = sum(_dims_taken(item) for item in items if item is not None and item is not Ellipsis)
    items[spot : spot + 1] = [slice(None)] * (tensor.dim() - consumed)
    return items


def _dims_taken(item: Any) -> int:
    """Dimensions that an entry uses up."""
    return item.dim() if _is_mask(item) else 1


def _is_mask(item: Any) -> bool:
    return isinstance(item, Tensor) and item.dtype == torch.bool


def _sliced(dim: Dim, item: slice) -> Dim:
    start, stop, step = item.indices(dim.size)
    if step != 1:
        pin(dim)
        return Dim(len(range(start, stop, step)), pinned=True)
    return _stretch(dim, start, max(start, stop))


@rule("masked_scatter", "masked_scatter_")
def _masked_scatter(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    """Vectors of a list written to the places that a mask names: features of images among those of tokens."""
    dims, mask = lookup(args[0]), lookup(argument(args, kwargs, 1, "mask"))
    source = lookup(argument(args, kwargs, 2, "source"))
    unify(dims[-1], source[-1])
    # The mask and the source's order tell other coordinates apart.
    pin(*dims[:-1], *mask[:-1], *source[:-1])
    return dims


@rule("one_hot", "nonzero", "bincount", "histc", "unique")
def _positions(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    """Operations that return positions pin dimensions."""
    pin(*lookup(args[0]))
    dims_of_results = [[Dim(size, pinned=True) for size in tensor.shape] for tensor in tensors_in(result)]
    return dims_of_results if isinstance(result, tuple) else dims_of_results[0]
