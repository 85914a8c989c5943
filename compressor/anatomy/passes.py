"""One forward pass of a model, in single or double precision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def run_pass(model: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """A pass without cache; models that draw masks (masked autoencoders) draw the same in every pass."""
    extra = {"use_cache": False} if getattr(model.config, "use_cache", None) is not None else {}
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        if not _is_double(model):
            return model(**inputs, **extra)
        if not getattr(model, _DOUBLE, False):
            try:
                output = model(**inputs, **extra)
            except RuntimeError as error:
                if not _MIXED.search(str(error)):
                    raise
            else:
                if hasattr(model, _DOUBLE) or _has_numbers(output):
                    setattr(model, _DOUBLE, False)
                    return output
            setattr(model, _DOUBLE, True)
        torch.random.default_generator.manual_seed(0)
        with _AllDouble():
            return model(**inputs, **extra)


def _is_double(model: nn.Module) -> bool:
    first = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    return first is not None and first.dtype is torch.float64


#: Attribute of models: whether, in double precision, they ask for single somewhere and do not run as they are.
_DOUBLE = "_asks_for_single_precision"
#: Errors of operations that mix precisions, or put the least double number into single precision.
_MIXED = re.compile(r"(?i)float.*double|double.*float|float without overflow", re.DOTALL)


def _has_numbers(output: Any) -> bool:
    """Whether every answer has a number: the least double one, of a mask, is infinite in single precision."""
    answers = output.values() if isinstance(output, Mapping) else output
    numbers = [answer for answer in answers if isinstance(answer, Tensor) and answer.is_floating_point()]
    return all(bool(answer.isfinite().any()) for answer in numbers)


class _AllDouble(TorchFunctionMode):
    """Gives double precision where single is asked for, or nothing is."""

    def __enter__(self) -> Any:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.set_default_dtype(self._default)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "float" and args:
            return args[0].double()
        args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        kwargs = {name: torch.float64 if arg is torch.float32 else arg for name, arg in (kwargs or {}).items()}
        result = func(*args, **kwargs)
        made = isinstance(result, Tensor) and result.dtype is torch.float32
        return result.double() if made and not any(isinstance(arg, Tensor) for arg in args) else result
