"""Rules of contractions and look-ups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from compressor.anatomy.dims import Dim, Dims, pin, split_product, unify
from compressor.anatomy.rules.rule import Lookup, argument, fresh_dims, rule, tensors_in


@rule("matmul", "__matmul__", "__rmatmul__", "bmm", "mm")
def _matmul(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    left, right = args[0], argument(args, kwargs, 1, "other", kwargs.get("mat2"))
    return _contract(lookup(left), lookup(right), result.shape)


def _contract(left: Dims, right: Dims, shape: Sequence[int]) -> Dims:
    inner = (left[-1], right[-2] if len(right) > 1 else right[-1])
    unify(*inner)
    for dim in inner:
        dim.contracted = True
    tail = [*left[-2:-1], *(right[-1:] if len(right) > 1 else [])]
    batch: Dims = []
    for place in range(len(shape) - len(tail)):
        back = place - (len(shape) - len(tail))
        aligned = [dims[:-2][back] for dims in (left, right) if len(dims) - 2 >= -back]
        real = [dim for dim in aligned if dim.size > 1]
        if len(real) == 2:
            unify(*real)
        batch.append(real[0] if real else Dim(shape[place]))
    return fresh_dims(batch + tail)


@rule("baddbmm", "addmm")
def _add_matmul(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    added, left, right = args[0], argument(args, kwargs, 1, "batch1"), argument(args, kwargs, 2, "batch2")
    dims = _contract(lookup(left), lookup(right), result.shape)
    for pair in zip(lookup(added)[::-1], dims[::-1], strict=False):
        unify(*pair)
    return dims


@rule("linear")
def _linear(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    x, weight = lookup(args[0]), lookup(argument(args, kwargs, 1, "weight"))
    bias = argument(args, kwargs, 2, "bias")
    unify(x[-1], weight[-1])
    weight[-1].contracted = True
    if bias is not None:
        unify(lookup(bias)[0], weight[0])
    return fresh_dims([*x[:-1], weight[0]])


@rule("einsum")
def _einsum(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    inputs, output = args[0].replace(" ", "").split("->")
    named: dict[str, Dim] = {}
    for letters, tensor in zip(inputs.split(","), tensors_in(args[1:]), strict=True):
        for letter, dim in zip(letters, lookup(tensor), strict=True):
            unify(named.setdefault(letter, dim), dim)
    return fresh_dims([named[letter] for letter in output])


@rule("conv1d", "conv2d", "conv3d")
def _convolution(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    x, weight = lookup(args[0]), lookup(argument(args, kwargs, 1, "weight"))
    bias = argument(args, kwargs, 2, "bias")
    pin(*x[2:], *weight[2:])
    if x[1].size == weight[1].size:
        unify(x[1], weight[1])
        weight[1].contracted = True
    elif x[1].size == weight[0].size and weight[1].size == 1:  # one filter per channel
        unify(x[1], weight[0])
    else:
        pin(x[1], weight[0], weight[1])
    if bias is not None:
        unify(lookup(bias)[0], weight[0])
    return [*fresh_dims([x[0], weight[0]]), *(Dim(size, pinned=True) for size in result.shape[2:])]


@rule("embedding")
def _embedding(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    ids, weight = args[0], argument(args, kwargs, 1, "weight")
    pin(lookup(weight)[0])
    lookup(weight)[1].looked_up = True
    return fresh_dims([*lookup(ids), lookup(weight)[1]])


@rule("scaled_dot_product_attention")
def _attention(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    query, key, value = (lookup(tensor) for tensor in args[:3])
    unify(query[-1], key[-1])
    unify(key[-2], value[-2])
    for place in range(len(query) - 2):
        for shared in (key, value):
            if query[place].size == shared[place].size:
                unify(query[place], shared[place])
            elif query[place].size % shared[place].size == 0:
                sizes = [shared[place].size, query[place].size // shared[place].size]
                unify(split_product(query[place], sizes)[0], shared[place])
    mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
    if mask is not None:
        for pair in zip(lookup(mask)[::-1], [key[-2], query[-2], *query[:-2][::-1]], strict=False):
            unify(*pair)
    return [*query[:-1], value[-1]]
