"""Record how a model calls its layers, so that they can be called again one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from compressor.anatomy.hooks import hooks
from compressor.fusion.calibration.capture import HandedArgument, LayerCall, StopForward


class CallRecorder:
    """The calls of some layers in one forward pass, which ends at the call of `last`.

    Args:
        on_entering: gets the hidden states that enter the first layer, before it runs.

    Attributes:
        calls: {layer: its arguments}.
        returned: {layer: its output, whose hidden states are emptied}.
        handed: outputs of earlier layers that later ones take as arguments.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str], last: str, on_entering: Callable[[Tensor], None]
    ) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.last = last
        self.on_entering = on_entering
        self.calls: dict[str, LayerCall] = {}
        self.returned: dict[str, Any] = {}
        self.handed: set[HandedArgument] = set()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record while the model runs."""
        handles = []
        for layer in self.layers:
            module = self.model.get_submodule(layer)
            handles.append(module.register_forward_pre_hook(self._before(layer), with_kwargs=True))
            handles.append(module.register_forward_hook(self._after(layer)))
        with hooks(handles):
            yield

    def _before(self, layer: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if layer in self.calls:
                return  # a shared layer is called alike every time
            by_name = None if args else next(name for name, value in kwargs.items() if isinstance(value, Tensor))
            keywords = {name: self._argument(value) for name, value in kwargs.items() if name != by_name}
            self.calls[layer] = LayerCall(tuple(map(self._argument, args[1:])), keywords, by_name)
            if layer == self.layers[0]:
                self.on_entering(args[0] if args else kwargs[by_name or ""])
            if layer == self.last:
                raise StopForward

        return hook

    def _after(self, layer: str) -> Any:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            # A layer's only tensor is its hidden state, which the next layer gets.
            self.returned[layer] = output.new_empty(0) if isinstance(output, Tensor) else output

        return hook

    def _argument(self, value: Any) -> Any:
        """An argument, or its place in an earlier layer's output; no cache, which would grow with every run."""
        if isinstance(value, Cache):
            return None
        if isinstance(value, Tensor):
            for layer, output in self.returned.items():
                for place, tensor in enumerate(output) if isinstance(output, tuple) else ():
                    if tensor is value:
                        argument = HandedArgument(layer, place)
                        self.handed.add(argument)
                        return argument
        return value
