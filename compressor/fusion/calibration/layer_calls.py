"""How a layer was called, so that it can be called again on other hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class HandedArgument:
    """An argument that an earlier layer returned: which layer, and the place in what it returned."""

    layer: str
    place: int


@dataclass(frozen=True)
class LayerCall:
    """The arguments of one layer's call, its hidden states left out."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_name: str | None

    def same_as(self, other: LayerCall) -> bool:
        mine, theirs = (*self.args, *self.kwargs.items()), (*other.args, *other.kwargs.items())
        return self.by_name == other.by_name and len(mine) == len(theirs) and all(map(_same, mine, theirs))

    def filled(self, returned: Mapping[str, Any]) -> LayerCall:
        """With what earlier layers returned in its places."""

        def fill(value: Any) -> Any:
            return returned[value.layer][value.place] if isinstance(value, HandedArgument) else value

        return replace(self, args=tuple(map(fill, self.args)), kwargs={k: fill(v) for k, v in self.kwargs.items()})


def call_layer(module: nn.Module, call: LayerCall, hidden: Tensor) -> Any:
    """Call a layer on other hidden states."""
    if call.by_name is not None:
        return module(*call.args, **{call.by_name: hidden}, **call.kwargs)
    return module(hidden, *call.args, **call.kwargs)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or (
        not isinstance(one, (Tensor, HandedArgument)) and not isinstance(other, Tensor) and one == other
    )
