"""Checkpoints: where the residual stream is seen after a module has added to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy.hooks import first_tensor, hooks, is_linear
from compressor.anatomy.passes import run_pass

#: (module, whether its output is meant, or its input).
Place = tuple[str, bool]


class _AllSeen(Exception):
    """Ends a pass of which the rest says nothing."""


class Checkpoints:
    """Finds checkpoints of a small model by disturbing what modules write; the undisturbed pass is run once.

    Args:
        places: where the stream may be seen.
        writers: modules that may be asked for.
    """

    def __init__(
        self, model: nn.Module, inputs: Mapping[str, Tensor], places: Iterable[Place], writers: Iterable[str]
    ) -> None:
        self._model, self._inputs = model, inputs
        written: dict[Place, Tensor] = {}
        with hooks([self._record(name, (name, True), written) for name in writers]):
            self._before = self._values(list(places))
        self._written = {name: value for (name, _), value in written.items()}

    def after(self, writer: str, places: Sequence[Place]) -> tuple[str, bool, float] | None:
        """The first place whose value changes by a multiple of a disturbance of the writer's output, and the multiple.

        None if there is none, or if a linear writer's own output is seen there.
        """
        if not places:
            return None
        noises: list[Tensor] = []

        def disturb(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            if noises:
                return output  # a layer with shared weights runs again; only its first run is disturbed
            noises.append(torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype))
            return output + noises[0]

        with hooks([self._model.get_submodule(writer).register_forward_hook(disturb)]):
            values = self._values(places)
        (noise,) = noises
        for place in places:
            value = values.get(place)
            if value is None or value.numel() != noise.numel() or value.shape[-1] != noise.shape[-1]:
                continue
            change = (value - self._before[place]).reshape(noise.shape)
            gain = float((change * noise).sum() / noise.square().sum())
            if abs(gain) > 1e-3 and torch.allclose(change.to(noise), gain * noise, atol=1e-4 * abs(gain)):
                linear = is_linear(self._model.get_submodule(writer))
                if linear and torch.equal(self._before[place].flatten(), self._written[writer].flatten()):
                    return None
                return *place, 1.0 if abs(gain - 1) < 1e-4 else gain
        return None

    def _values(self, places: Sequence[Place]) -> dict[Place, Tensor]:
        """What is first seen at each place in a pass, which ends with the last of them."""
        values: dict[Place, Tensor] = {}
        recorders = [self._record(place[0], place, values, len(places)) for place in places]
        with hooks(recorders), torch.no_grad(), suppress(_AllSeen):
            run_pass(self._model, self._inputs)
        return values

    def _record(self, name: str, place: Place, values: dict[Place, Tensor], expected: int = 0) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            value = first_tensor(output) if place[1] else (first_tensor(args) if args else first_tensor(kwargs))
            if value is not None and place not in values:
                values[place] = value.detach().clone()
                if len(values) == expected:
                    raise _AllSeen

        return self._model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)
