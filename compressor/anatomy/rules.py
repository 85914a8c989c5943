"""What torch's operations do to dimensions: one small rule an operation, under the operation's name.

A rule is told the dimensions of the operation's tensors and gives those of its results.  An operation without a rule
pins everything that goes into it, which is always safe: an anatomy then only has fewer interchangeable coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from compressor.anatomy.dims import Dim, Dims, concat, pin, product, select_dim, split_concat, split_product, unify


class Lookup(Protocol):
    """Gives the dimensions of a tensor; one that was not seen before counts as a constant."""

    def __call__(self, tensor: Tensor) -> Dims: ...


#: (dimensions of tensors, positional arguments, keyword arguments, result) -> dimensions of the result(s).
Rule = Callable[[Lookup, tuple[Any, ...], dict[str, Any], Any], Any]

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule under the names of operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors among arguments, lists looked into."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [found for value in values for found in tensors_in(value)]
    if isinstance(values, dict):
        return tensors_in(list(values.values()))
    return []


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def broadcast(lookup: Lookup, tensors: Sequence[Tensor], shape: Sequence[int]) -> Dims:
    """Dimensions of an elementwise result: those that line up are the same."""
    found: Dims = [Dim(1) for _ in shape]
    for tensor in tensors:
        dims = lookup(tensor)
        for place, dim in enumerate(dims, start=len(shape) - len(dims)):
            if place < 0 or dim.size == 1 or dim.size != shape[place]:
                continue
            if found[place].size == 1:
                found[place] = dim
            else:
                unify(found[place], dim)
    return [dim if dim.size == size else Dim(size) for dim, size in zip(found, shape, strict=True)]


@rule(
    "add", "__add__", "__radd__", "__iadd__", "add_", "sub", "__sub__", "__rsub__", "__isub__", "rsub", "mul",
    "__mul__", "__rmul__", "__imul__", "mul_", "multiply", "div", "__truediv__", "__rtruediv__", "div_", "true_divide",
    "__div__", "__rdiv__", "pow", "__pow__", "__rpow__", "maximum", "minimum", "where", "masked_fill", "masked_fill_",
    "clamp", "eq", "__eq__", "ne", "__ne__", "lt", "__lt__", "le", "__le__", "gt", "__gt__", "ge", "__ge__", "__and__",
    "__or__", "logical_and", "logical_or", "logical_not", "__invert__", "bitwise_and", "bitwise_not", "__neg__", "neg",
    "abs", "exp", "log", "sqrt", "rsqrt", "square", "tanh", "sigmoid", "relu", "relu_", "gelu", "silu", "erf", "sin",
    "cos", "softplus", "mish", "leaky_relu", "elu", "selu", "celu", "hardtanh", "relu6", "reciprocal", "sign", "float",
    "double", "half", "bfloat16", "to", "type", "type_as", "contiguous", "clone", "detach", "dropout", "dropout_",
    "alpha_dropout", "requires_grad_", "cpu", "softmax", "log_softmax", "__floordiv__", "__mod__", "floor_divide",
    "long", "int", "bool", "isinf", "isnan", "nan_to_num", "clamp_", "clip", "addcmul", "lerp", "logical_xor", "round",
    "normalize", "copy_", "hardswish", "hardsigmoid", "gelu_", "silu_", "log1p", "expm1", "empty_like", "to_dense",
)  # fmt: skip
def _elementwise(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    if isinstance(result, tuple):  # where(condition): the places that hold
        pin(*(dim for tensor in tensors_in(args) for dim in lookup(tensor)))
        return [[Dim(size, pinned=True) for size in tensor.shape] for tensor in result]
    return broadcast(lookup, tensors_in([*args, *kwargs.values()]), result.shape)


@rule("view", "reshape", "flatten", "unflatten", "_unsafe_view", "view_as", "reshape_as")
def _reshape(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    old, new = [dim for dim in lookup(args[0]) if dim.size > 1], list(result.shape)
    found: Dims = []
    while new:
        if new[0] == 1:
            found.append(Dim(new.pop(0)))
            continue
        group, sizes = [old.pop(0)], [new.pop(0)]
        while (have := _size(group)) != (want := _product(sizes)):
            if have < want:
                group.append(old.pop(0))
            else:
                sizes.append(new.pop(0))
        found += group if len(group) == len(sizes) == 1 else split_product(product(group), sizes)
    return found


def _size(dims: Dims) -> int:
    return _product([dim.size for dim in dims])


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


@rule("transpose", "swapaxes", "transpose_")
def _transpose(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = list(lookup(args[0]))
    first = _argument(args, kwargs, 1, "dim0", kwargs.get("axis0"))
    second = _argument(args, kwargs, 2, "dim1", kwargs.get("axis1"))
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


@rule("unsqueeze", "squeeze", "movedim")
def _squeeze(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    real = iter([dim for dim in lookup(args[0]) if dim.size > 1])
    return [next(real) if size > 1 else Dim(1) for size in result.shape]


@rule("expand", "expand_as", "broadcast_to")
def _expand(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = lookup(args[0])
    aligned = [Dim(1)] * (result.dim() - len(dims)) + list(dims)
    return [dim if dim.size == size else Dim(size) for dim, size in zip(aligned, result.shape, strict=True)]


@rule("repeat", "tile")
def _repeat(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = lookup(args[0])
    aligned = [Dim(1)] * (result.dim() - len(dims)) + list(dims)
    return [product([Dim(size // dim.size), dim]) for dim, size in zip(aligned, result.shape, strict=True)]


@rule("repeat_interleave")
def _interleave(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = lookup(args[0])
    return [product([dim, Dim(size // dim.size)]) for dim, size in zip(dims, result.shape, strict=True)]


@rule("mean", "sum", "var", "std", "amax", "amin", "norm", "logsumexp", "any", "all", "prod", "argmax", "argmin", "max",
      "min", "linalg_norm", "vector_norm")  # fmt: skip
def _reduce(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    if len(args) > 1 and isinstance(args[1], Tensor):
        return _elementwise(lookup, args, kwargs, result)
    dims = lookup(args[0])
    over = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    first = result[0] if isinstance(result, tuple) else result
    if over is None:
        found: Dims = []
    else:
        places = {place % len(dims) for place in (over if isinstance(over, (tuple, list)) else [over])}
        keep = first.dim() == len(dims)
        found = [Dim(1) if place in places else dim for place, dim in enumerate(dims) if keep or place not in places]
    return [found] * len(result) if isinstance(result, tuple) else found


@rule("matmul", "__matmul__", "__rmatmul__", "bmm", "mm")
def _matmul(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    one, other = args[0], _argument(args, kwargs, 1, "other", kwargs.get("mat2"))
    return _contract(lookup(one), lookup(other), result.shape)


def _contract(one: Dims, other: Dims, shape: Sequence[int]) -> Dims:
    inner = (one[-1], other[-2] if len(other) > 1 else other[-1])
    unify(*inner)
    for dim in inner:
        dim.contracted = True
    tail = [*one[-2:-1], *(other[-1:] if len(other) > 1 else [])]
    heads: Dims = []
    for place in range(len(shape) - len(tail)):
        back = place - (len(shape) - len(tail))
        near = [dims[:-2][back] for dims in (one, other) if len(dims) - 2 >= -back]
        real = [dim for dim in near if dim.size > 1]
        if len(real) == 2:
            unify(*real)
        heads.append(real[0] if real else Dim(shape[place]))
    return fresh_dims(heads + tail)


def fresh_dims(dims: Dims) -> Dims:
    """Dimensions of a new tensor: the same ones, but no longer the weight's own, which know what was done to it."""
    return [dim.alias() for dim in dims]


@rule("baddbmm", "addmm")
def _add_matmul(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    added, one, other = args[0], _argument(args, kwargs, 1, "batch1"), _argument(args, kwargs, 2, "batch2")
    found = _contract(lookup(one), lookup(other), result.shape)
    for dim, own in zip(lookup(added)[::-1], found[::-1], strict=False):
        unify(dim, own)
    return found


@rule("linear")
def _linear(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    x, weight = lookup(args[0]), lookup(_argument(args, kwargs, 1, "weight"))
    bias = _argument(args, kwargs, 2, "bias")
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
    x, weight = lookup(args[0]), lookup(_argument(args, kwargs, 1, "weight"))
    bias = _argument(args, kwargs, 2, "bias")
    pin(*x[2:], *weight[2:])
    if x[1].size == weight[1].size:
        unify(x[1], weight[1])
        weight[1].contracted = True
    elif x[1].size == weight[0].size:
        unify(x[1], weight[0])
    else:
        pin(x[1], weight[0], weight[1])
    if bias is not None:
        unify(lookup(bias)[0], weight[0])
    return [*fresh_dims([x[0], weight[0]]), *(Dim(size, pinned=True) for size in result.shape[2:])]


@rule("embedding")
def _embedding(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    ids, weight = args[0], _argument(args, kwargs, 1, "weight")
    pin(lookup(weight)[0])
    lookup(weight)[1].looked_up = True
    return fresh_dims([*lookup(ids), lookup(weight)[1]])


@rule("layer_norm", "rms_norm")
def _norm(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = lookup(args[0])
    for tensor in tensors_in([*args[1:], *kwargs.values()]):
        for own, scale in zip(dims[::-1], lookup(tensor)[::-1], strict=False):
            unify(own, scale)
    return dims


@rule("scaled_dot_product_attention")
def _attention(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    query, key, value = (lookup(tensor) for tensor in args[:3])
    unify(query[-1], key[-1])
    unify(key[-2], value[-2])
    for place in range(len(query) - 2):
        for other in (key, value):
            if query[place].size == other[place].size:
                unify(query[place], other[place])
            elif query[place].size % other[place].size == 0:
                sizes = [other[place].size, query[place].size // other[place].size]
                unify(split_product(query[place], sizes)[0], other[place])
    mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
    if mask is not None:
        for dim, own in zip(lookup(mask)[::-1], [key[-2], query[-2], *query[:-2][::-1]], strict=False):
            unify(dim, own)
    return [*query[:-1], value[-1]]


@rule("chunk", "split", "tensor_split", "split_with_sizes")
def _split(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> list[Dims]:
    place = _argument(args, kwargs, 2, "dim", 0)
    dims = lookup(args[0])
    parts = split_concat(dims[place], [part.shape[place] for part in result])
    place %= len(dims)
    return [[*dims[:place], part, *dims[place + 1 :]] for part in parts]


@rule("unbind")
def _unbind(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> list[Dims]:
    dims = lookup(args[0])
    place = _argument(args, kwargs, 1, "dim", 0) % len(dims)
    return [select_dim(dims, place, index) for index in range(len(result))]


@rule("select")
def _select(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = lookup(args[0])
    return select_dim(dims, _argument(args, kwargs, 1, "dim") % len(dims), _argument(args, kwargs, 2, "index"))


@rule("narrow")
def _narrow(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = list(lookup(args[0]))
    place, start = _argument(args, kwargs, 1, "dim") % len(dims), int(_argument(args, kwargs, 2, "start"))
    dims[place] = _stretch(dims[place], start, start + result.shape[place])
    return dims


def _stretch(dim: Dim, start: int, stop: int) -> Dim:
    """Coordinates [start, stop) of a dimension."""
    if stop - start == dim.size:
        return dim
    sizes = [start, stop - start, dim.size - stop]
    parts = split_concat(dim, [size for size in sizes if size > 0])
    return parts[1 if start > 0 else 0] if stop > start else Dim(0)


@rule("cat", "concat", "concatenate")
def _cat(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    parts = [lookup(tensor) for tensor in args[0] if tensor.dim() == result.dim()]
    place = _argument(args, kwargs, 1, "dim", 0) % result.dim()
    found = list(parts[0])
    for other in parts[1:]:
        for index, dim in enumerate(other):
            if index != place:
                unify(found[index], dim)
    found[place] = concat([part[place] for part in parts if part[place].size > 0])
    return found


@rule("stack")
def _stack(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    place = _argument(args, kwargs, 1, "dim", 0) % result.dim()
    found = broadcast(lookup, args[0], args[0][0].shape)
    return [*found[:place], Dim(len(args[0]), pinned=True), *found[place:]]


@rule("__getitem__")
def _getitem(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    tensor, index = args
    items = list(index) if isinstance(index, tuple) else [index]
    if not any(item is Ellipsis for item in items):
        items.append(Ellipsis)
    spot = next(place for place, item in enumerate(items) if item is Ellipsis)
    consumed = sum(item.dim() if _is_mask(item) else 1 for item in items if item is not None and item is not Ellipsis)
    items[spot : spot + 1] = [slice(None)] * (tensor.dim() - consumed)
    dims = lookup(tensor)
    # Single coordinates go first, from behind: they may give the other dimensions new faces.
    for spot in range(len(items) - 1, -1, -1):
        if not isinstance(items[spot], (slice, type(None))) and not (
            isinstance(items[spot], Tensor) and items[spot].dim()
        ):
            place = sum(item.dim() if _is_mask(item) else 1 for item in items[:spot] if item is not None)
            dims = select_dim(dims, place, int(items[spot]))
            del items[spot]
    remaining, found, advanced, where = list(dims), [], [], None
    for item in items:
        if item is None:
            found.append(Dim(1))
        elif isinstance(item, slice):
            found.append(_sliced(remaining.pop(0), item))
        else:
            where = len(found) if where is None else where
            advanced.append(item)
            for _ in range(item.dim() if _is_mask(item) else 1):
                pin(remaining.pop(0))
    if where is not None:
        shape = result.shape[where : where + result.dim() - len(found)]
        if any(_is_mask(item) for item in advanced):
            inner = [Dim(size, pinned=True) for size in shape]
        else:
            inner = broadcast(lookup, advanced, shape)
        found[where:where] = inner
    return found


def _is_mask(item: Any) -> bool:
    return isinstance(item, Tensor) and item.dtype == torch.bool


def _sliced(dim: Dim, item: slice) -> Dim:
    start, stop, step = item.indices(dim.size)
    if step != 1:
        pin(dim)
        return Dim(len(range(start, stop, step)), pinned=True)
    return _stretch(dim, start, max(start, stop))


@rule("gather", "take_along_dim", "index_select", "cumsum", "flip", "roll", "tril", "triu", "cumprod", "sort", "topk")
def _ordered(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    """Operations along one dimension that tell its coordinates apart; the other dimensions stay what they are."""
    dims = lookup(args[0])
    results = result if isinstance(result, tuple) else (result,)
    found = []
    for tensor in results:
        same = [
            dim if dim.size == size else Dim(size, pinned=True) for dim, size in zip(dims, tensor.shape, strict=True)
        ]
        found.append(same)
    name = kwargs.get("dim", args[1] if len(args) > 1 and isinstance(args[1], int) else -1)
    over = [name] if isinstance(name, int) else list(name)
    for place in over:
        pin(dims[place])
    return found if isinstance(result, tuple) else found[0]


@rule("one_hot", "nonzero", "bincount", "histc", "unique")
def _positions(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    """Results that hold places along dimensions: these have an identity from then on."""
    pin(*lookup(args[0]))
    made = [[Dim(size, pinned=True) for size in tensor.shape] for tensor in tensors_in(result)]
    return made if isinstance(result, tuple) else made[0]


@rule("index_add_", "index_add", "index_copy_", "scatter_add_", "index_copy")
def _index_add(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    own, added = lookup(args[0]), lookup(_argument(args, kwargs, 3, "source"))
    place = int(_argument(args, kwargs, 1, "dim")) % len(own)
    for index, (one, other) in enumerate(zip(own, added, strict=True)):
        if index == place:
            pin(one, other)
        else:
            unify(one, other)
    return own


@rule("interpolate", "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d", "adaptive_avg_pool1d", "avg_pool1d", "pad")
def _spatial(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    """Operations over positions: those are pinned, samples and channels stay what they are."""
    dims = lookup(args[0])
    kept = [dim if dim.size == size else Dim(size, pinned=True) for dim, size in zip(dims, result.shape, strict=True)]
    pin(*dims[2:], *kept[2:])
    if any(one.size != other.size for one, other in zip(dims[:2], kept[:2], strict=True)):
        pin(*dims[:2])
    return kept
