"""Trace dimensions in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from compressor.anatomy.dims import Dim, Dims, pin
from compressor.anatomy.hooks import first_tensor, hooks, logits_of
from compressor.anatomy.rules import RULES, tensors_in

#: Operations whose results do not depend on the coordinates of their arguments.
_SHAPE_ONLY = {
    "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_tensor", "size", "dim", "numel",
    "is_floating_point", "data_ptr", "untyped_storage", "item", "is_contiguous", "stride", "element_size", "tolist",
    "__len__", "__bool__", "ndimension", "__set__", "__format__", "__repr__", "is_complex", "__int__", "__float__",
    "__index__", "get_device", "__hash__", "has_names", "storage_offset", "nelement", "is_same_size", "__contains__",
    "new_empty", "rand_like", "randn_like", "empty_like", "equal", "requires_grad_", "allclose", "is_nonzero",
    "manual_seed", "is_inference", "register_hook", "retain_grad", "__deepcopy__", "backward", "is_tensor",
}  # fmt: skip


@dataclass(frozen=True)
class ModuleDims:
    """Dimensions of first input and output."""

    reads: Dims
    writes: Dims


@dataclass
class TracedDims:
    """The dimensions of one forward pass.

    Attributes:
        output: of logits (or last hidden state).
        unknown: operations without a rule.
    """

    parameters: dict[str, Dims]
    calls: dict[str, list[ModuleDims]] = field(default_factory=dict)
    output: Dims = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)


def trace_dims(model: nn.Module, inputs: Mapping[str, Tensor], *, head: bool) -> TracedDims:
    """Run a small eager model once, unifying dimensions; `head` pins the last one of logits."""
    tracer = _Tracer(model)

    def recorder(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            read, written = first_tensor(args) if args else first_tensor(kwargs), first_tensor(output)
            if read is not None and written is not None:
                call = ModuleDims(tracer.dims(read), tracer.dims(written))
                tracer.traced.calls.setdefault(name, []).append(call)

        return hook

    handles = [m.register_forward_hook(recorder(name), with_kwargs=True) for name, m in model.named_modules() if name]
    with hooks(handles), torch.no_grad(), tracer:
        output = logits_of(model, inputs)
    tracer.traced.output = tracer.dims(output)
    pin(*tracer.traced.output[: None if head else -1])
    return tracer.traced


class _Tracer(TorchFunctionMode):
    """Applies each operation's rule to its dimensions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        #: {id of a tensor: it and its dimensions}; kept alive, or ids would be reused.
        self._known: dict[int, tuple[Tensor, Dims]] = {}
        parameters = {}
        for name, parameter in model.named_parameters():
            dims = [Dim(size) for size in parameter.shape]
            parameters[name] = dims
            self._known[id(parameter)] = (parameter, dims)
        self.traced = TracedDims(parameters)

    def dims(self, tensor: Tensor) -> Dims:
        """A tensor's dimensions; those along which a constant varies are pinned."""
        if id(tensor) not in self._known:
            self._known[id(tensor)] = (tensor, [self._constant(tensor, place) for place in range(tensor.dim())])
        return self._known[id(tensor)][1]

    def _constant(self, tensor: Tensor, place: int) -> Dim:
        with torch._C.DisableTorchFunction():
            first = tensor.narrow(place, 0, min(1, tensor.shape[place]))
            varies = bool((tensor != first).any()) if tensor.numel() else False
        return Dim(tensor.shape[place], pinned=varies)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name, results = _name(func), tensors_in(result)
        if name in _SHAPE_ONLY:
            for tensor in results:
                self.dims(tensor)  # before anything is added to it in place
            return result
        arguments = tensors_in([*args, *kwargs.values()])
        if not results or not arguments:  # a constant, whose dimensions are read when used
            return result
        rule = RULES.get(name)
        if rule is None:
            self._pin_all(name, arguments, results)
            return result
        with torch._C.DisableTorchFunction():
            dims = rule(self.dims, args, kwargs, result)
        pairs = zip(result, dims, strict=True) if isinstance(result, (tuple, list)) else [(result, dims)]
        for tensor, dims_of_tensor in pairs:
            self._known[id(tensor)] = (tensor, dims_of_tensor)
        return result

    def _pin_all(self, name: str, arguments: list[Tensor], results: list[Tensor]) -> None:
        with torch._C.DisableTorchFunction():
            known = [dim for tensor in arguments if id(tensor) in self._known for dim in self._known[id(tensor)][1]]
            if any(not dim.all_pinned for dim in known):
                self.traced.unknown.add(name)
            pin(*known)
            for tensor in results:
                self._known[id(tensor)] = (tensor, [Dim(size, pinned=True) for size in tensor.shape])


def _name(func: Any) -> str:
    """The name of an operation or property."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return name if name in RULES else (resolve_name(func) or name).rpartition(".")[2]
