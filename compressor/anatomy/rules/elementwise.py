"""Rules of elementwise operations, norms, and operations along one dimension."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from compressor.anatomy.dims import Dim, Dims, pin, unify
from compressor.anatomy.rules.rule import Lookup, argument, broadcast, rule, tensors_in


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
    "clamp_min", "clamp_max", "clamp_min_", "clamp_max_", "fmod", "remainder", "logaddexp", "hypot", "atan2", "trunc",
    "floor", "ceil", "exp_", "tanh_", "sigmoid_", "sub_", "div_", "logit", "softsign", "hardshrink", "softmin", "exp2",
)  # fmt: skip
def _elementwise(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    if isinstance(result, tuple):  # where(condition) returns positions
        pin(*(dim for tensor in tensors_in(args) for dim in lookup(tensor)))
        return [[Dim(size, pinned=True) for size in tensor.shape] for tensor in result]
    return broadcast(lookup, tensors_in([*args, *kwargs.values()]), result.shape)


@rule("mean", "sum", "var", "std", "amax", "amin", "norm", "logsumexp", "any", "all", "prod", "argmax", "argmin", "max",
      "min", "linalg_norm", "vector_norm")  # fmt: skip
def _reduce(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    if len(args) > 1 and isinstance(args[1], Tensor):
        return _elementwise(lookup, args, kwargs, result)
    dims = lookup(args[0])
    over = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    first = result[0] if isinstance(result, tuple) else result
    if over is None:
        left: Dims = []
    else:
        places = {place % len(dims) for place in (over if isinstance(over, (tuple, list)) else [over])}
        keep = first.dim() == len(dims)
        left = [Dim(1) if place in places else dim for place, dim in enumerate(dims) if keep or place not in places]
    return [left] * len(result) if isinstance(result, tuple) else left


@rule("layer_norm", "rms_norm")
def _norm(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = lookup(args[0])
    for tensor in tensors_in([*args[1:], *kwargs.values()]):
        for dim, scaled in zip(dims[::-1], lookup(tensor)[::-1], strict=False):
            unify(dim, scaled)
    return dims


@rule("batch_norm")
def _batch_norm(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    """Channels come second; statistics that differ from channel to channel pin them."""
    dims = lookup(args[0])
    for tensor in tensors_in([*args[1:], *kwargs.values()]):
        unify(dims[1], lookup(tensor)[0])
    return dims


@rule("_weight_norm")
def _weight_norm(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    """Directions, scaled along the dimension that the norm keeps."""
    return broadcast(lookup, args[:2], result.shape)


@rule("group_norm")
def _group_norm(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    dims = lookup(args[0])
    for tensor in tensors_in([*args[2:], *kwargs.values()]):
        unify(dims[1], lookup(tensor)[0])
    # Channels of one group are alike; several groups of several channels are not.
    if argument(args, kwargs, 1, "num_groups") not in (1, dims[1].size):
        pin(dims[1])
    return dims


@rule("prelu")
def _prelu(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    """One slope, or one a channel; channels come second."""
    dims, slopes = lookup(args[0]), lookup(argument(args, kwargs, 1, "weight"))
    if slopes[0].size > 1:
        unify(dims[1] if len(dims) > 1 else dims[0], slopes[0])
    return dims


@rule("grid_sample")
def _grid_sample(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    """Every channel of a map [B, C, ...] is read at the same places."""
    dims = lookup(args[0])
    pin(*dims[2:], *lookup(argument(args, kwargs, 1, "grid")))
    return [*dims[:2], *(Dim(size, pinned=True) for size in result.shape[2:])]


@rule("gather", "take_along_dim", "index_select", "cumsum", "flip", "roll", "tril", "triu", "cumprod", "sort", "topk")
def _ordered(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    """Operations along one dimension pin it."""
    dims = lookup(args[0])
    results = result if isinstance(result, tuple) else (result,)
    dims_of_results = [
        [dim if dim.size == size else Dim(size, pinned=True) for dim, size in zip(dims, tensor.shape, strict=True)]
        for tensor in results
    ]
    named = kwargs.get("dim", args[1] if len(args) > 1 and isinstance(args[1], int) else -1)
    for place in [named] if isinstance(named, int) else list(named):
        pin(dims[place])
    return dims_of_results if isinstance(result, tuple) else dims_of_results[0]


@rule("interpolate", "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d", "adaptive_avg_pool1d", "avg_pool1d", "pad")
def _spatial(lookup: Lookup, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Dims:
    """Spatial operations pin positions."""
    dims = lookup(args[0])
    resized = [
        dim if dim.size == size else Dim(size, pinned=True) for dim, size in zip(dims, result.shape, strict=True)
    ]
    pin(*dims[2:], *resized[2:])
    if any(before.size != after.size for before, after in zip(dims[:2], resized[:2], strict=True)):
        pin(*dims[:2])
    return resized
