"""Walking models layer by layer over the calibration batches.

Between layers only hidden states are kept; one layer of one model computes at a time.  Layers are called as their
model called them: the keyword arguments (masks, positions) are recorded in one pass.  What one layer returns beside
its hidden states and a later one is given (T5's relative bias) is handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy.hooks import Tap, first_tensor, hooks, logits_of
from compressor.fusion.calibration.layer_calls import HandedArgument, LayerCall, call_layer
from compressor.models.finite import check_hidden

#: What is done with the watched tensors of one batch.
OnBatch = Callable[[int, dict[Tap, Tensor]], None]


class _Enough(Exception):
    """Everything watched has been seen; the rest of the forward pass is not needed."""


class LayerwiseRunner:
    """One model over one set of batches.

    Args:
        model: any transformers model, in evaluation mode.
        stacks: paths of its layers, stack after stack, in order.
        batches: model inputs; anything that can be iterated again.
        name: of a teacher, whose activations are refused where nothing can be computed with them (`check_seen`).
    """

    def __init__(
        self,
        model: nn.Module,
        stacks: Sequence[Sequence[str]],
        batches: Iterable[Mapping[str, Tensor]],
        name: str | None = None,
    ) -> None:
        self.model = model
        self.name = name
        self.stacks = tuple(tuple(layers) for layers in stacks)
        self.batches = [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]
        #: Hidden states that enter the next layer of the stack that is being walked, batch by batch.
        self.hidden: list[Tensor] = []
        #: Those that entered the layer advanced last.
        self.before: list[Tensor] = []
        self._calls: list[dict[str, LayerCall]] = []
        self._returned: list[dict[str, Any]] = [{} for _ in self.batches]
        #: What the stacks already walked put out.
        self._done: dict[int, list[Tensor]] = {}
        #: What layers are given beside their hidden states, that earlier ones returned.
        self._handed: set[HandedArgument] = set()
        self._stack = -1
        #: Whether the layers return their hidden states and nothing else.
        self.plain = True

    @torch.no_grad()
    def enter(self, stack: int, spots: Sequence[Tap] = (), visit: OnBatch | None = None) -> None:
        """Run everything before a stack; keeps what enters its first layer and how each layer is called.

        Stacks walked before are not run again: what they put out is handed through.  Entering the same stack again
        starts it anew.
        """
        if stack != self._stack and self._stack >= 0:
            self._done[self._stack] = self.hidden
        self._stack, layers = stack, self.stacks[stack]
        self.hidden, self._calls = [], []
        self._returned = [{k: v for k, v in one.items() if k not in layers} for one in self._returned]
        #: The longest batch whose layers were called alike, and whether any were not.
        longest, unlike = -1, False
        for index, batch in enumerate(self.batches):
            length = max(value[0].numel() for value in batch.values())
            alike = not unlike and length <= longest
            calls: dict[str, LayerCall] = {}
            returned: dict[str, Any] = {}
            last = layers[0] if alike else layers[-1]
            handles = []
            for layer in layers:
                module = self.model.get_submodule(layer)
                recorder = self._recorder(layer, calls, returned, first=layer == layers[0], last=layer == last)
                handles.append(module.register_forward_pre_hook(recorder, with_kwargs=True))
                handles.append(module.register_forward_hook(_keeper(layer, returned)))
            with (
                self._skipping(index), hooks(handles),
                capture_taps(self.model, spots, stop=False) as seen, ending_early(),
            ):  # fmt: skip
                logits_of(self.model, batch)
            if alike:
                calls = dict.fromkeys(layers, calls[layers[0]])
            else:
                # Most families call all layers alike: then the first layer's arguments tell the others'.  Windows of
                # attention do not show in samples that are shorter than they are.
                unlike |= not all(call.same_as(calls[layers[0]]) for call in calls.values())
                longest = max(longest, length)
            if index == 0:
                self.plain = bool(returned) and all(isinstance(output, Tensor) for output in returned.values())
            self._calls.append(calls)
            if self.name is not None:
                check_seen(self.name, {**seen, (layers[0], "in"): self.hidden[-1]})
            if visit is not None:
                visit(index, seen)

    def run(
        self, layer: str, spots: Sequence[Tap], visit: OnBatch, *, advance: bool = False, again: bool = False
    ) -> None:
        """Run one layer on the kept hidden states, showing the watched tensors batch by batch.

        Args:
            layer: path of the layer.
            spots: what to watch; unless `advance`, the layer stops as soon as all of it was seen.
            visit: called with the batch index and the watched tensors.
            advance: keep the layer's output as the hidden states that enter the next layer.
            again: run on what entered the layer advanced last.
        """
        module = self.model.get_submodule(layer)
        entering = self.before if again else list(self.hidden)
        for index in range(len(self.hidden)):
            batch = self._batch(index)
            with torch.no_grad(), capture_taps(self.model, spots, stop=not advance) as seen, ending_early():
                call = self._calls[batch][layer].filled(self._returned[batch])
                returned = call_layer(module, call, entering[index])
                output = first_tensor(returned)
                if advance and output is not None:
                    self.hidden[index] = output
                    self._returned[batch][layer] = self._kept(layer, returned)
            if self.name is not None:
                check_seen(self.name, {**seen, (layer, "out"): self.hidden[index]})
            visit(index, seen)
        if advance:
            self.before = entering

    def look(self, layer: str, index: int, spot: Tap) -> Tensor:
        """What one layer shows of one batch at one spot; gradients pass through the layer if they are enabled."""
        batch = self._batch(index)
        with capture_taps(self.model, [spot], stop=True) as seen, ending_early():
            call = self._calls[batch][layer].filled(self._returned[batch])
            call_layer(self.model.get_submodule(layer), call, self.hidden[index])
        return seen[spot]

    def _batch(self, index: int) -> int:
        """The batch that a virtual one of an unrolled layer belongs to."""
        return index // (len(self.hidden) // len(self.batches))

    def unroll(self, layer: str, runs: int) -> None:
        """For a layer that runs several times: keep what enters every run, one virtual batch a run."""
        entering: list[Tensor] = []
        for index, start in enumerate(list(self.hidden)):
            hidden = start
            for _ in range(runs):
                entering.append(hidden)
                hidden = self._once(layer, index, hidden)
        self.hidden = entering

    def roll(self, layer: str, runs: int, start: Sequence[Tensor]) -> None:
        """Run a layer several times from `start`, one tensor a batch; keeps what comes out last."""
        self.hidden = list(start)
        for index in range(len(self.batches)):
            for _ in range(runs):
                self.hidden[index] = self._once(layer, index, self.hidden[index])

    @torch.no_grad()
    def _once(self, layer: str, batch: int, hidden: Tensor) -> Tensor:
        call = self._calls[batch][layer].filled(self._returned[batch])
        returned = call_layer(self.model.get_submodule(layer), call, hidden)
        self._returned[batch][layer] = self._kept(layer, returned)
        output = first_tensor(returned)
        return hidden if output is None else output

    def _kept(self, layer: str, returned: Any) -> Any:
        """What a layer returned without its hidden states, which would pile up layer after layer.

        They stay where a later layer is given them as another argument.
        """
        if not isinstance(returned, tuple):
            return None
        return returned if HandedArgument(layer, 0) in self._handed else (None, *returned[1:])

    @torch.no_grad()
    def finish(self, spots: Sequence[Tap], visit: OnBatch) -> None:
        """Run everything behind the layers on the kept hidden states, showing the watched tensors batch by batch."""
        for index in range(len(self.batches)):
            visit(index, self._behind(index, spots)[0])

    @torch.no_grad()
    def say(self, index: int) -> Tensor:
        """The logits of a batch, from the kept hidden states; those of all batches need not fit into memory."""
        return self._behind(index)[1]

    def _behind(self, index: int, spots: Sequence[Tap] = ()) -> tuple[dict[Tap, Tensor], Tensor]:
        self._done[self._stack] = self.hidden
        with self._skipping(index), capture_taps(self.model, spots, stop=False) as seen:
            logits = logits_of(self.model, self.batches[index])
        return seen, logits

    def _recorder(
        self, layer: str, calls: dict[str, LayerCall], returned: dict[str, Any], *, first: bool, last: bool
    ) -> Any:
        def handed(value: Any) -> Any:
            """An argument, or where it came from if an earlier layer returned it."""
            if isinstance(value, Tensor):
                for source, output in returned.items():
                    places = enumerate(output) if isinstance(output, tuple) else ()
                    for place, other in places:
                        if other is value:
                            found = HandedArgument(source, place)
                            self._handed.add(found)
                            return found
            return value

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if layer in calls:
                return  # a shared layer is called alike every time
            by_name = None if args else next(name for name, value in kwargs.items() if isinstance(value, Tensor))
            given = {name: handed(value) for name, value in kwargs.items() if name != by_name}
            calls[layer] = LayerCall(tuple(map(handed, args[1:])), given, by_name)
            if first:
                self.hidden.append(args[0] if args else kwargs[by_name or ""])
            if last:
                raise _Enough

        return hook

    @contextmanager
    def _skipping(self, index: int) -> Iterator[None]:
        """Let every layer walked hand through the hidden states kept, in the shape in which it returns them."""
        modules: list[nn.Module] = []

        def passing(layer: str, hidden: Tensor) -> Callable[..., Any]:
            template = self._returned[index].get(layer)
            return lambda *_, **__: (hidden, *template[1:]) if isinstance(template, tuple) else hidden

        try:
            for stack, kept in self._done.items():
                for layer in self.stacks[stack]:
                    module = self.model.get_submodule(layer)
                    module.forward = passing(layer, kept[index])
                    modules.append(module)
            yield
        finally:
            for module in modules:
                if "forward" in vars(module):
                    del module.forward


def check_seen(teacher: str, seen: Mapping[Tap, Tensor]) -> None:
    """Refuse a teacher whose activations nothing can be computed with.

    Args:
        teacher: its name.
        seen: what was watched.

    Raises:
        UserError: a tensor holds NaN, infinity or what is far too large; names the module.
    """
    for (module, _), value in seen.items():
        check_hidden(teacher, module, value)


@contextmanager
def capture_taps(model: nn.Module, spots: Sequence[Tap], *, stop: bool = False) -> Iterator[dict[Tap, Tensor]]:
    """Fill a dict with the watched tensors while the model runs; `stop` ends the pass once all were seen.

    Of a module that is called several times (keys of tokens, then of relative positions) the first call counts.
    """
    seen: dict[Tap, Tensor] = {}

    def note(spot: Tap, value: Tensor | None) -> None:
        if value is not None:
            seen.setdefault(spot, value)
        if stop and len(seen) == len(spots):
            raise _Enough

    def before(spot: Tap) -> Any:
        return lambda _, args, kwargs: note(spot, first_tensor(args) if args else first_tensor(kwargs))

    def after(spot: Tap) -> Any:
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


def _keeper(layer: str, returned: dict[str, Any]) -> Any:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        returned[layer] = output

    return hook


@contextmanager
def ending_early() -> Iterator[None]:
    """Go on behind a forward pass that ended because everything watched was seen."""
    try:
        yield
    except _Enough:
        return
