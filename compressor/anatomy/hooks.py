"""Forward hooks: outputs, module calls, products of attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from compressor.anatomy.passes import run_pass
from compressor.errors import UnsupportedError
from compressor.models.headless.sentence_pooling import EMBEDDING
from compressor.models.tasks.table import task_of_model

#: Outputs made of others.
_OF_OTHERS = ("loss", EMBEDDING)
#: (module path, "in" or "out"): a tensor of a forward pass, the module's first input or output.
Tap = tuple[str, str]
#: {class of a linear map: the dimension of `weight` that it writes}.
LINEAR_WRITE_DIM: dict[type[nn.Module], int] = {nn.Linear: 0, Conv1D: 1}


def is_linear(module: nn.Module) -> bool:
    """Whether a module is linear or convolutional."""
    return isinstance(module, (nn.Linear, Conv1D, nn.Conv1d, nn.Conv2d, nn.Conv3d))


def is_pointwise(module: nn.Module) -> bool:
    """Whether a module is a convolution that maps the channels of every pixel alike."""
    if not isinstance(module, nn.Conv2d) or module.groups > 1:
        return False
    return set(module.kernel_size) == {1} and set(module.stride) == {1} and module.padding in ((0, 0), "valid", "same")


def channels_last(module: nn.Module, value: Tensor) -> Tensor:
    """What a module reads or writes as [B, ..., C]; maps of convolutions and norms are [B, C, H, W]."""
    maps = isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)) and value.dim() == 4
    return value.movedim(1, -1) if maps else value


def write_dim(module: nn.Module) -> int | None:
    """The written dimension of `module.weight`, if linear; also of a convolution of single pixels."""
    if is_pointwise(module):
        return 0
    return next((dim for kind, dim in LINEAR_WRITE_DIM.items() if isinstance(module, kind)), None)


@dataclass(frozen=True)
class ModuleCall:
    """A module's call, with storage addresses."""

    module: str
    reads: int
    writes: int


@dataclass(frozen=True)
class Trace:
    """Calls by completion."""

    calls: tuple[ModuleCall, ...]
    logits: Tensor

    def order(self) -> list[str]:
        return [call.module for call in self.calls]

    def readers_of(self, module: str) -> list[str]:
        """Modules that read this output (or a view)."""
        outputs = {call.writes for call in self.calls if call.module == module}
        return [call.module for call in self.calls if call.reads in outputs and call.module != module]


def first_tensor(values: Any) -> Tensor | None:
    """The first tensor: a layer's hidden state."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, Mapping):
        values = tuple(values.values())
    if isinstance(values, (tuple, list)):
        return next((tensor for tensor in map(first_tensor, values) if tensor is not None), None)
    return None


def feature_place(output: Tensor) -> int:
    """The dimension of an output's features: [..., C], or [B, C, H, W] of maps of images."""
    return 1 if output.dim() == 4 else output.dim() - 1


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits [B, ..., C] as of `Task.read`, or the last hidden state."""
    output = run_pass(model, inputs)
    if not isinstance(output, Mapping):
        return output[0]
    try:
        logits = task_of_model(model).logits(output, inputs)
    except UnsupportedError:
        logits = output.get("logits")
    return next(iter(output.values())) if logits is None else logits


def all_outputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All answers: every kind of logits, or without a head every floating tensor (features, poolings)."""
    return named_answers(run_pass(model, inputs))


def named_answers(output: Any) -> dict[str, Tensor]:
    """The answers among the outputs of a pass, as of `all_outputs`."""
    # Tuples hold states of layers; only a tuple without names is an output by itself.
    named = dict(output) if isinstance(output, Mapping) else {str(i): value for i, value in enumerate(output)}
    answers = {
        name: value
        for name, value in named.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() and name not in _OF_OTHERS
    }
    # Heads of detectors answer with boxes beside the logits of classes.
    return {name: value for name, value in answers.items() if "logits" in name or name.startswith("pred_")} or answers


@contextmanager
def hooks(handles: list[Any]) -> Iterator[None]:
    """Remove all hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture_outputs(model: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """{module: first output tensors} of runs in the block."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}

    def recorder(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                outputs[name].append(tensor)

        return hook

    with hooks([model.get_submodule(name).register_forward_hook(recorder(name)) for name in outputs]):
        yield outputs


@contextmanager
def capture_inputs(model: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """{module: the first tensor that it reads} of the first run in the block."""
    inputs: dict[str, Tensor] = {}

    def recorder(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensor = first_tensor(args) if args else first_tensor(kwargs)
            if tensor is not None:
                inputs.setdefault(name, tensor)

        return hook

    with hooks(
        [model.get_submodule(name).register_forward_pre_hook(recorder(name), with_kwargs=True) for name in modules]
    ):
        yield inputs


def trace(model: nn.Module, inputs: Mapping[str, Tensor], layers: tuple[str, ...]) -> Trace:
    """Run a small real model once; record storages of modules and `layers`."""
    calls: list[ModuleCall] = []
    alive: list[Tensor] = []  # addresses of freed storages would be used again

    def recorder(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            read, written = first_tensor(args) if args else first_tensor(kwargs), first_tensor(output)
            if read is not None and written is not None:
                alive.extend((read, written))
                storages = read.untyped_storage().data_ptr(), written.untyped_storage().data_ptr()
                calls.append(ModuleCall(name, *storages))

        return hook

    handles = [
        module.register_forward_hook(recorder(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name in layers or next(module.parameters(recurse=False), None) is not None
    ]
    with hooks(handles), torch.no_grad():
        logits = logits_of(model, inputs)
    return Trace(tuple(calls), logits)


class _FirstSoftmax(TorchFunctionMode):
    """Keeps the first softmax's input once armed."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = False
        self.input: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.armed and self.input is None and getattr(func, "__name__", "") == "softmax":
            with torch._C.DisableTorchFunction():
                self.input = args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def product_scale(model: nn.Module, inputs: Mapping[str, Tensor], writers: list[str]) -> float | None:
    """Attention logits for queries and keys of ones: the channel count, unless scaled.

    `writers` are projections of an eager model; None without softmax.
    """
    logits: list[Tensor] = []
    for level in (0.0, 1.0):
        mode = _FirstSoftmax()

        def fill(_: nn.Module, __: Any, output: Tensor, level: float = level, mode: _FirstSoftmax = mode) -> Tensor:
            mode.armed = True
            return torch.full_like(output, level)

        handles = [model.get_submodule(name).register_forward_hook(fill) for name in writers]
        with hooks(handles), torch.no_grad(), mode:
            logits_of(model, inputs)
        if mode.input is None:
            return None
        logits.append(mode.input)
    change = (logits[1] - logits[0]).abs()
    return float(change[change.isfinite()].median())
