"""Derived weights, computed at each access."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor


class Derived(Mapping[str, Tensor]):
    """{parameter: float64 tensor} after changes to an unchanged `state`, which may read its tensors at each access."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        shapes: Mapping[str, torch.Size] | None = getattr(state, "shapes", None)
        self._shapes = {name: value.shape for name, value in state.items()} if shapes is None else shapes
        self._makers: dict[str, Callable[[], Tensor]] = {name: _maker(state, name) for name in self._shapes}

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """{parameter: shape}."""
        return self._shapes

    def change(self, name: str, how: Callable[[Tensor], Tensor]) -> None:
        """Replace a parameter by `how(parameter)`."""
        before = self._makers[name]
        self._makers[name] = lambda: how(before())

    def maker(self, name: str) -> Callable[[], Tensor]:
        """A parameter's function as of now."""
        return self._makers[name]

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _maker(state: Mapping[str, Tensor], name: str) -> Callable[[], Tensor]:
    if isinstance(state, Derived):
        return state.maker(name)
    return lambda: state[name].to("cpu", torch.float64)
