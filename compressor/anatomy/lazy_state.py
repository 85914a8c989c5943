"""Weights that follow from a model's: computed each time they are asked for, so that no second model is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor


class Derived(Mapping[str, Tensor]):
    """{parameter name: tensor}, float64, as what was changed makes it.

    Args:
        state: {parameter name: tensor} that all starts from; it must stay as it is.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._shapes = state.shapes if isinstance(state, Derived) else {name: v.shape for name, v in state.items()}
        self._made: dict[str, Callable[[], Tensor]] = {name: _reader(state, name) for name in self._shapes}

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Of every parameter, without computing any; no change alters them."""
        return self._shapes

    def change(self, name: str, how: Callable[[Tensor], Tensor]) -> None:
        """Let a parameter be what `how` makes of what it was."""
        before = self._made[name]
        self._made[name] = lambda: how(before())

    def maker(self, name: str) -> Callable[[], Tensor]:
        """Makes a parameter as it is now, whatever changes later."""
        return self._made[name]

    def __getitem__(self, name: str) -> Tensor:
        return self._made[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._made

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def _reader(state: Mapping[str, Tensor], name: str) -> Callable[[], Tensor]:
    """What reads a parameter as it is now."""
    if isinstance(state, Derived):
        return state.maker(name)
    value = state[name]
    return lambda: value.to(torch.float64)
