"""Trace dimensions in forward passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from compressor.anatomy.dims import Dim, DimForm, Dims, pin
from compressor.anatomy.hooks import all_outputs, feature_place, first_tensor, hooks
from compressor.anatomy.rules import COMPOSITES, RULES, Rule, tensors_in

#: Operations whose results do not depend on the coordinates of their arguments.
_SHAPE_ONLY = {
    "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_tensor", "size", "dim", "numel",
    "is_floating_point", "data_ptr", "untyped_storage", "item", "is_contiguous", "stride", "element_size", "tolist",
    "__len__", "__bool__", "ndimension", "__set__", "__format__", "__repr__", "is_complex", "__int__", "__float__",
    "__index__", "get_device", "__hash__", "has_names", "storage_offset", "nelement", "is_same_size", "__contains__",
    "new_empty", "rand_like", "randn_like", "empty_like", "equal", "requires_grad_", "allclose", "is_nonzero",
    "manual_seed", "is_inference", "register_hook", "retain_grad", "__deepcopy__", "backward", "is_tensor",
}  # fmt: skip

#: Errors of a rule that meets arguments which it was not made for.
_RULE_ERRORS = (
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    StopIteration,
    RuntimeError,
    ArithmeticError,
)


@dataclass(frozen=True)
class ModuleDims:
    """Dimensions of first input and output."""

    reads: Dims
    writes: Dims


def stream_of_call(dims: Dims) -> Dim:
    """The dimension of features: the last one, or the second one of maps whose rows and columns have places."""
    channels_second = len(dims) == 4 and dims[-1].all_pinned and not dims[1].all_pinned
    return dims[1 if channels_second else -1].root


@dataclass
class TracedDims:
    """The dimensions of forward passes.

    Attributes:
        calls: of the first pass.
        outputs: {name: dimension of its features}, of all passes.
        unknown: operations without a rule, or whose rule failed.
    """

    parameters: dict[str, Dims]
    calls: dict[str, list[ModuleDims]] = field(default_factory=dict)
    outputs: dict[str, Dim] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)


def trace_dims(model: nn.Module, trials: Sequence[Mapping[str, Tensor]], *, head: bool) -> TracedDims:
    """Run a small eager model on every trial, unifying dimensions; `head` pins the last one of outputs."""
    tracer = _Tracer(model)

    def recorder(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            read, written = first_tensor(args) if args else first_tensor(kwargs), first_tensor(output)
            if read is not None and written is not None:
                call = ModuleDims(tracer.dims(read), tracer.dims(written))
                tracer.traced.calls.setdefault(name, []).append(call)

        return hook

    for index, inputs in enumerate(trials):
        modules = model.named_modules() if index == 0 else ()
        handles = [m.register_forward_hook(recorder(name), with_kwargs=True) for name, m in modules if name]
        with hooks(handles), torch.no_grad(), tracer:
            outputs = all_outputs(model, inputs)
        for name, output in outputs.items():
            dims = tracer.dims(output)
            place = feature_place(output)
            features = dims[place]
            pin(*(dim for dim in dims if head or dim is not features or features.root.form is not DimForm.ATOM))
            tracer.traced.outputs.setdefault(name, features)
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
        if name in COMPOSITES:
            return self._watch_parts(COMPOSITES[name], args, kwargs, result)
        if name in _SHAPE_ONLY:
            for tensor in results:
                self.dims(tensor)  # before anything is added to it in place
            return result
        arguments = tensors_in([*args, *kwargs.values()])
        if name == "__setitem__":
            self._write_into(*args)
            return result
        if not results or not arguments:  # a constant, whose dimensions are read when used
            return result
        rule = RULES.get(name)
        if rule is None:
            self._pin_all(name, arguments, results)
            return result
        dims_of_results = self._dims_by_rule(rule, args, kwargs, result)
        if dims_of_results is None:
            self._pin_all(f"{name} (its rule failed)", arguments, results)
            return result
        for tensor, dims in dims_of_results:
            self._known[id(tensor)] = (tensor, dims)
        return result

    def _dims_by_rule(
        self, rule: Rule, args: Any, kwargs: dict[str, Any], result: Any
    ) -> list[tuple[Tensor, Dims]] | None:
        """Results with their dimensions; None if the rule failed or gave other sizes."""
        try:
            with torch._C.DisableTorchFunction():
                dims = rule(self.dims, args, kwargs, result)
            pairs = list(zip(result, dims, strict=True)) if isinstance(result, (tuple, list)) else [(result, dims)]
        except _RULE_ERRORS:
            return None
        return pairs if all([dim.size for dim in ds] == [*tensor.shape] for tensor, ds in pairs) else None

    def _watch_parts(self, composite: Callable[..., Any], args: Any, kwargs: dict[str, Any], result: Any) -> Any:
        """The result of an operation, with the dimensions that its parts give."""
        with self:
            parts = composite(*args, **kwargs)
        self._known[id(result[0])] = (result[0], self.dims(parts[0]))
        return result

    def _write_into(self, target: Tensor, index: Any, value: Any) -> None:
        """Values written into a part of a tensor have its dimensions."""
        if not isinstance(value, Tensor):
            return
        with torch._C.DisableTorchFunction():
            part = target[index]
        dims = self._dims_by_rule(RULES["__getitem__"], (target, index), {}, part)
        if dims is not None:
            self._known[id(part)] = dims[0]
        if dims is None or self._dims_by_rule(RULES["add"], (part, value), {}, part) is None:
            self._pin_all("__setitem__ (its rule failed)", [target, value], [])

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
