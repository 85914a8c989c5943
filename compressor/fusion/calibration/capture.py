"""Capture tensors of a forward pass; repeat a layer's call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from compressor.anatomy.hooks import Tap, channels_last, first_tensor, hooks
from compressor.models.finite import check_hidden


class StopForward(Exception):
    """Ends a forward pass once all tensors are captured."""


@contextmanager
def ending_early() -> Iterator[None]:
    """Continue after `StopForward`."""
    try:
        yield
    except StopForward:
        return


@contextmanager
def capture_taps(model: nn.Module, taps: Sequence[Tap], *, stop: bool = False) -> Iterator[dict[Tap, Tensor]]:
    """Fill a dict with tensors [B, ..., C] at some taps while the model runs; a module's first call counts.

    `stop` ends the pass after the last (`ending_early`).
    """
    captured: dict[Tap, Tensor] = {}

    def keep(tap: Tap, value: Tensor | None) -> None:
        if value is not None:
            captured.setdefault(tap, channels_last(model.get_submodule(tap[0]), value))
        if stop and len(captured) == len(taps):
            raise StopForward

    def before(tap: Tap) -> Any:
        return lambda _, args, kwargs: keep(tap, first_tensor(args) if args else first_tensor(kwargs))

    def after(tap: Tap) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            value = first_tensor(output)
            # Some models add to it in place (Falcon).
            keep(tap, None if value is None else value.clone())

        return hook

    handles = []
    for tap in taps:
        module = model.get_submodule(tap[0])
        if tap[1] == "in":
            handles.append(module.register_forward_pre_hook(before(tap), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(after(tap)))
    with hooks(handles):
        yield captured


def check_captured(teacher: str, captured: Mapping[Tap, Tensor]) -> None:
    """Refuse a teacher with unusable activations.

    Raises:
        UserError: NaN, infinity or huge values.
    """
    for (module, _), value in captured.items():
        check_hidden(teacher, module, value)


@dataclass(frozen=True)
class HandedArgument:
    """An argument from an earlier layer's output."""

    layer: str
    place: int


@dataclass(frozen=True)
class LayerCall:
    """One layer call's arguments without hidden states.

    Attributes:
        by_name: keyword of the hidden states, unless positional.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_name: str | None

    def same_as(self, other: LayerCall) -> bool:
        values, others = (*self.args, *self.kwargs.items()), (*other.args, *other.kwargs.items())
        return self.by_name == other.by_name and len(values) == len(others) and all(map(_same, values, others))

    def filled(self, returned: Mapping[str, Any]) -> LayerCall:
        """The call with earlier layers' outputs filled in."""

        def fill(value: Any) -> Any:
            return returned[value.layer][value.place] if isinstance(value, HandedArgument) else value

        return replace(self, args=tuple(map(fill, self.args)), kwargs={k: fill(v) for k, v in self.kwargs.items()})


def call_layer(module: nn.Module, call: LayerCall, hidden: Tensor) -> Any:
    """Call a layer on other hidden states."""
    if call.by_name is not None:
        return module(*call.args, **{call.by_name: hidden}, **call.kwargs)
    return module(hidden, *call.args, **call.kwargs)


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, tuple) and isinstance(other, tuple):
        return len(value) == len(other) and all(map(_same, value, other))
    return value is other or (
        not isinstance(value, (Tensor, HandedArgument)) and not isinstance(other, Tensor) and value == other
    )
