"""Walking models layer by layer over the calibration batches.

Between layers only hidden states are kept; one layer of one model computes at a time.  Layers are called as their
model called them: the keyword arguments (masks, positions) are recorded in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy.trace import first_tensor, hooks, logits_of

#: (module path, "in" or "out"): a tensor to watch.
Spot = tuple[str, str]
#: What is done with the watched tensors of one batch.
Visitor = Callable[[int, dict[Spot, Tensor]], None]


class _Enough(Exception):
    """Everything watched has been seen; the rest of the forward pass is not needed."""


@dataclass
class _Call:
    """The arguments of one layer's call, its hidden states left out."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_name: str | None

    def same_as(self, other: _Call) -> bool:
        mine, theirs = (*self.args, *self.kwargs.items()), (*other.args, *other.kwargs.items())
        return self.by_name == other.by_name and len(mine) == len(theirs) and all(map(_same, mine, theirs))


class Walker:
    """One model over one set of batches.

    Args:
        model: any transformers model, in evaluation mode.
        layers: paths of its layers, in order.
        batches: model inputs; anything that can be iterated again.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], batches: Iterable[Mapping[str, Tensor]]) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.batches = [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]
        self.hidden: list[Tensor] = []
        self._calls: list[dict[str, _Call]] = []

    @property
    def tokens(self) -> list[Tensor | None]:
        """Per batch, which tokens count [B, T]: padding does not.  None when all do."""
        masks = (batch.get("attention_mask") for batch in self.batches)
        return [None if mask is None or bool(mask.all()) else mask.bool() for mask in masks]

    @property
    def count(self) -> int:
        """Token vectors in all batches; known once the walk has started."""
        return sum(hidden[..., 0].numel() for hidden in self.hidden)

    @torch.no_grad()
    def start(self, spots: Sequence[Spot] = (), visit: Visitor | None = None) -> None:
        """Run everything before the layers; keeps what enters the first layer and how each layer is called."""
        self.hidden, self._calls = [], []
        alike = False
        for index, batch in enumerate(self.batches):
            calls: dict[str, _Call] = {}
            last = self.layers[0] if alike else self.layers[-1]
            handles = [
                self.model.get_submodule(layer).register_forward_pre_hook(
                    self._recorder(layer, calls, last=layer == last), with_kwargs=True
                )
                for layer in self.layers
            ]
            with hooks(handles), watching(self.model, spots, stop=False) as seen, _until_enough():
                logits_of(self.model, batch)
            if alike:
                calls = dict.fromkeys(self.layers, calls[self.layers[0]])
            elif index == 0:
                # Most families call all layers alike: then the first layer's arguments tell the others'.
                alike = all(call.same_as(calls[self.layers[0]]) for call in calls.values())
            self._calls.append(calls)
            if visit is not None:
                visit(index, seen)

    def run(self, layer: str, spots: Sequence[Spot], visit: Visitor, *, advance: bool = False) -> None:
        """Run one layer on the kept hidden states, showing the watched tensors batch by batch.

        Args:
            layer: path of the layer.
            spots: what to watch; unless `advance`, the layer stops as soon as all of it was seen.
            visit: called with the batch index and the watched tensors.
            advance: keep the layer's output as the hidden states that enter the next layer.
        """
        module = self.model.get_submodule(layer)
        for index in range(len(self.batches)):
            with torch.no_grad(), watching(self.model, spots, stop=not advance) as seen, _until_enough():
                call = self._calls[index][layer]
                output = first_tensor(_call(module, call, self.hidden[index]))
                if advance and output is not None:
                    self.hidden[index] = output
            visit(index, seen)

    @torch.no_grad()
    def finish(self, spots: Sequence[Spot] = (), visit: Visitor | None = None) -> list[Tensor]:
        """Run everything behind the layers on the kept hidden states; returns the logits of each batch."""
        logits = []
        for index, batch in enumerate(self.batches):
            with self._skipping_layers(index), watching(self.model, spots, stop=False) as seen:
                logits.append(logits_of(self.model, batch))
            if visit is not None:
                visit(index, seen)
        return logits

    def _recorder(self, layer: str, calls: dict[str, _Call], *, last: bool) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            by_name = None if args else next(name for name, value in kwargs.items() if isinstance(value, Tensor))
            calls[layer] = _Call(args[1:], {k: v for k, v in kwargs.items() if k != by_name}, by_name)
            if layer == self.layers[0]:
                self.hidden.append(args[0] if args else kwargs[by_name or ""])
            if last:
                raise _Enough

        return hook

    @contextmanager
    def _skipping_layers(self, index: int) -> Iterator[None]:
        """Let every layer hand through the hidden states kept, in the shape in which it returns them."""
        modules = [self.model.get_submodule(layer) for layer in self.layers]

        def hand_through(*_: Any, **__: Any) -> Tensor:
            return self.hidden[index]

        try:
            for module in modules:
                module.forward = hand_through
            yield
        finally:
            for module in modules:
                del module.forward


@contextmanager
def watching(model: nn.Module, spots: Sequence[Spot], *, stop: bool = False) -> Iterator[dict[Spot, Tensor]]:
    """Fill a dict with the watched tensors while the model runs; `stop` ends the pass once all were seen."""
    seen: dict[Spot, Tensor] = {}

    def note(spot: Spot, value: Tensor | None) -> None:
        if value is not None:
            seen[spot] = value
        if stop and len(seen) == len(spots):
            raise _Enough

    def before(spot: Spot) -> Any:
        return lambda _, args, kwargs: note(spot, first_tensor(args) if args else first_tensor(kwargs))

    def after(spot: Spot) -> Any:
        return lambda _, __, output: note(spot, first_tensor(output))

    handles = []
    for spot in spots:
        module = model.get_submodule(spot[0])
        if spot[1] == "in":
            handles.append(module.register_forward_pre_hook(before(spot), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(after(spot)))
    with hooks(handles):
        yield seen


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or (not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other)


def _call(module: nn.Module, call: _Call, hidden: Tensor) -> Any:
    if call.by_name is not None:
        return module(*call.args, **{call.by_name: hidden}, **call.kwargs)
    return module(hidden, *call.args, **call.kwargs)


@contextmanager
def _until_enough() -> Iterator[None]:
    try:
        yield
    except _Enough:
        return
