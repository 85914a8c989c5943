"""Watching one forward pass: the order of modules, who reads whose output, and where a writer meets the residual."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

#: (module path, "in" or "out"): a tensor of a forward pass, the module's first input or output.
Tap = tuple[str, str]
#: Modules that multiply by a matrix, and the dimension of `weight` that each writes.
LINEAR_WRITE_DIM: dict[type[nn.Module], int] = {nn.Linear: 0, Conv1D: 1}


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map or a convolution: it multiplies by a matrix."""
    return isinstance(module, (nn.Linear, Conv1D, nn.Conv1d, nn.Conv2d, nn.Conv3d))


def write_dim(module: nn.Module) -> int | None:
    """The dimension of `module.weight` that it writes; None for modules that are no linear map of the last axis."""
    return next((dim for kind, dim in LINEAR_WRITE_DIM.items() if isinstance(module, kind)), None)


@dataclass(frozen=True)
class ModuleCall:
    """One module's call: the storages it read from and wrote to."""

    module: str
    reads: int
    writes: int


@dataclass(frozen=True)
class Trace:
    """The calls of modules that own parameters, in order of completion, and of whole layers."""

    calls: tuple[ModuleCall, ...]
    logits: Tensor

    def order(self) -> list[str]:
        return [call.module for call in self.calls]

    def readers_of(self, module: str) -> list[str]:
        """Modules that read exactly what `module` returned (or a view of it)."""
        outputs = {call.writes for call in self.calls if call.module == module}
        return [call.module for call in self.calls if call.reads in outputs and call.module != module]


def first_tensor(values: Any) -> Tensor | None:
    """The first tensor among arguments or outputs, which is the hidden state in every layer of transformers."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, Mapping):
        values = tuple(values.values())
    if isinstance(values, (tuple, list)):
        return next((found for found in map(first_tensor, values) if found is not None), None)
    return None


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """The model's logits (or its last hidden state, when it has no head), flattened over everything but the batch."""
    extra = {"use_cache": False} if getattr(model.config, "use_cache", None) is not None else {}
    output = model(**inputs, **extra)
    return output["logits"] if "logits" in output else output[0]


@contextmanager
def hooks(handles: list[Any]) -> Iterator[None]:
    """Remove every hook on the way out."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture_outputs(model: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Fill a dict {module: the first tensor of each of its outputs, call by call} while the model runs inside."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}

    def recorder(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                outputs[name].append(tensor)

        return hook

    with hooks([model.get_submodule(name).register_forward_hook(recorder(name)) for name in outputs]):
        yield outputs


def trace(model: nn.Module, inputs: Mapping[str, Tensor], layers: tuple[str, ...]) -> Trace:
    """Run the model once and record who read from whom.

    Args:
        model: a small real model (not on meta).
        inputs: its inputs.
        layers: names of the layer modules, recorded as well as the modules that own parameters.
    """
    calls: list[ModuleCall] = []
    kept: list[Tensor] = []  # storages must stay alive, or their addresses would be used again

    def record(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            read, written = first_tensor(args) if args else first_tensor(kwargs), first_tensor(output)
            if read is not None and written is not None:
                kept.extend((read, written))
                storages = read.untyped_storage().data_ptr(), written.untyped_storage().data_ptr()
                calls.append(ModuleCall(name, *storages))

        return hook

    handles = [
        module.register_forward_hook(record(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name in layers or next(module.parameters(recurse=False), None) is not None
    ]
    with hooks(handles), torch.no_grad():
        logits = logits_of(model, inputs)
    return Trace(tuple(calls), logits)


def checkpoint_of(
    model: nn.Module, inputs: Mapping[str, Tensor], writer: str, candidates: list[tuple[str, bool]]
) -> tuple[str, bool, float] | None:
    """Where the residual stream is seen right after `writer` has added to it.

    The writer's output is shifted by a known tensor; the first candidate (module, whether its output is meant) that
    shifts by a multiple of the same tensor is the residual stream behind the addition, and the multiple is the gain.
    Where a linear module's output alone arrives, nothing has been added yet (a norm of its own follows).
    """
    seen: dict[tuple[str, bool], Tensor] = {}
    shift: list[Tensor] = []
    own: list[Tensor] = []

    def watch(key: tuple[str, bool]) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            value = first_tensor(output) if key[1] else (first_tensor(args) if args else first_tensor(kwargs))
            if value is not None and key not in seen:
                seen[key] = value.detach().clone()

        return hook

    def disturb(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        if shift:
            return output  # a shared layer runs again: its first run tells enough
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
        shift.append(noise)
        return output + noise

    watchers = [model.get_submodule(key[0]).register_forward_hook(watch(key), with_kwargs=True) for key in candidates]
    with hooks(watchers), torch.no_grad():
        with hooks([model.get_submodule(writer).register_forward_hook(lambda _, __, output: own.append(output))]):
            logits_of(model, inputs)
        before = dict(seen)
        seen.clear()
        with hooks([model.get_submodule(writer).register_forward_hook(disturb)]):
            logits_of(model, inputs)
    for key in candidates:
        if key in seen and seen[key].numel() == shift[0].numel() and seen[key].shape[-1] == shift[0].shape[-1]:
            moved = (seen[key] - before[key]).reshape(shift[0].shape)
            gain = float((moved * shift[0]).sum() / shift[0].square().sum())
            if abs(gain) > 1e-3 and torch.allclose(moved, gain * shift[0], atol=1e-4 * abs(gain)):
                if is_linear(model.get_submodule(writer)) and torch.equal(before[key].flatten(), own[0].flatten()):
                    return None
                return *key, 1.0 if abs(gain - 1) < 1e-4 else gain
    return None


class _Softmaxes(TorchFunctionMode):
    """Keeps what the first softmax behind a signal is given."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = False
        self.given: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.armed and self.given is None and getattr(func, "__name__", "") == "softmax":
            with torch._C.DisableTorchFunction():
                self.given = args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def product_scale(model: nn.Module, inputs: Mapping[str, Tensor], writers: list[str]) -> float | None:
    """What a query of ones and a key of ones add to the attention's logits: the number of channels, unless scaled.

    Args:
        model: with eager attention.
        inputs: its inputs.
        writers: the linear modules that write queries, keys and values.

    Returns:
        None where no softmax follows.
    """
    found: list[Tensor] = []
    for level in (0.0, 1.0):
        mode = _Softmaxes()

        def level_out(_: nn.Module, __: Any, output: Tensor, level: float = level, mode: _Softmaxes = mode) -> Tensor:
            mode.armed = True
            return torch.full_like(output, level)

        handles = [model.get_submodule(name).register_forward_hook(level_out) for name in writers]
        with hooks(handles), torch.no_grad(), mode:
            logits_of(model, inputs)
        if mode.given is None:
            return None
        found.append(mode.given)
    moved = (found[1] - found[0]).abs()
    return float(moved[moved.isfinite()].median())
