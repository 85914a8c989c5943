"""Run a model layer by layer over the calibration batches.

Only hidden states between layers are kept; one pass records the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy.hooks import Tap, first_tensor, logits_of
from compressor.fusion.calibration.capture import (
    HandedArgument,
    LayerCall,
    call_layer,
    capture_taps,
    check_captured,
    ending_early,
)
from compressor.fusion.calibration.recorder import CallRecorder
from compressor.models.inputs import without_labels
from compressor.models.streamed import holding
from compressor.utils.tensor_store import StoredTensors, TensorStore

#: Callback (batch index, captured tensors).
OnBatch = Callable[[int, dict[Tap, Tensor]], None]


class LayerwiseRunner:
    """One model in evaluation mode and its hidden states over some batches.

    Args:
        stacks: layer paths.
        name: of a teacher whose activations are checked.
        store: keeps hidden states; in memory if omitted.
    """

    def __init__(
        self,
        model: nn.Module,
        stacks: Sequence[Sequence[str]],
        batches: Iterable[Mapping[str, Tensor]],
        name: str | None = None,
        store: TensorStore | None = None,
    ) -> None:
        self.model = model
        self.name = name
        self.stacks = tuple(tuple(layers) for layers in stacks)
        self.batches = [without_labels(batch) for batch in batches]
        #: Whether the layers return their hidden states and nothing else.
        self.plain = True
        #: Inputs of the next layer, per batch.
        self._store = store or TensorStore()
        self._hidden = self._store.many()
        #: Inputs of the last layer advanced over.
        self._before = self._store.many()
        self._calls: list[dict[str, LayerCall]] = []
        self._returned: list[dict[str, Any]] = [{} for _ in self.batches]
        #: Outputs of the finished stacks.
        self._finished: dict[int, StoredTensors] = {}
        #: Outputs of earlier layers that later layers take as arguments.
        self._handed: set[HandedArgument] = set()
        self._stack = -1

    @property
    def hidden(self) -> Sequence[Tensor]:
        """Inputs of the next layer, per (virtual) batch."""
        return self._hidden

    def new_list(self) -> StoredTensors:
        """An empty list that is kept where the hidden states are."""
        return self._store.many()

    def kept_hidden(self) -> StoredTensors:
        """A list of the same that later layers do not change."""
        return self._hidden.copy()

    @torch.no_grad()
    def start_stack(self, stack: int, taps: Sequence[Tap] = (), on_batch: OnBatch | None = None) -> None:
        """Run everything before a stack; keep its inputs and all arguments."""
        if stack != self._stack and self._stack >= 0:
            self._finished[self._stack] = self._hidden
        self._stack, layers = stack, self.stacks[stack]
        self._hidden, self._calls = self._store.many(), []
        self._returned = [{k: v for k, v in outputs.items() if k not in layers} for outputs in self._returned]
        with holding(self.model):
            self._start_batches(layers, taps, on_batch)

    def _start_batches(self, layers: Sequence[str], taps: Sequence[Tap], on_batch: OnBatch | None) -> None:
        # Longest batch with layers called alike; whether any were not.
        longest, unlike = -1, False
        for index, batch in enumerate(self.batches):
            length = max(value[0].numel() for value in batch.values())
            alike = not unlike and length <= longest
            last = layers[0] if alike else layers[-1]
            recorder = CallRecorder(self.model, layers, last, self._hidden.append)
            with (
                self._skipping(index), recorder.recording(),
                capture_taps(self.model, taps, stop=False) as captured, ending_early(),
            ):  # fmt: skip
                logits_of(self.model, batch)
            calls, returned = recorder.calls, recorder.returned
            self._handed |= recorder.handed
            if alike:
                calls = dict.fromkeys(layers, calls[layers[0]])
            else:
                # If all layers are called alike, the first one's arguments serve all; only long samples show windows.
                unlike |= not all(call.same_as(calls[layers[0]]) for call in calls.values())
                longest = max(longest, length)
            if index == 0:
                self.plain = bool(returned) and all(isinstance(output, Tensor) for output in returned.values())
            self._calls.append(calls)
            if self.name is not None:
                check_captured(self.name, {**captured, (layers[0], "in"): self._hidden[-1]})
            if on_batch is not None:
                on_batch(index, captured)

    def capture(
        self, layer: str, taps: Sequence[Tap], on_batch: OnBatch, *, advance: bool = False, again: bool = False
    ) -> None:
        """Run one layer and capture tensors batch by batch.

        Args:
            taps: the layer stops there unless `advance`.
            advance: keep the output.
            again: run on the last layer's inputs.
        """
        entering = self._before if again else self._hidden.copy()
        with holding(self.model, layer):
            for index in range(len(self._hidden)):
                self._capture_batch(layer, index, taps, on_batch, entering[index], advance=advance)
        if advance:
            self._before = entering

    def _capture_batch(
        self, layer: str, index: int, taps: Sequence[Tap], on_batch: OnBatch, entering: Tensor, *, advance: bool
    ) -> None:
        module, batch = self.model.get_submodule(layer), self._batch(index)
        with torch.no_grad(), capture_taps(self.model, taps, stop=not advance) as captured, ending_early():
            call = self._calls[batch][layer].filled(self._returned[batch])
            returned = call_layer(module, call, entering)
            output = first_tensor(returned)
            if advance and output is not None:
                self._hidden[index] = output
                self._returned[batch][layer] = self._without_hidden(layer, returned)
        if self.name is not None:
            check_captured(self.name, {**captured, (layer, "out"): self._hidden[index]})
        on_batch(index, captured)

    def advance(self, layer: str) -> None:
        """Run one layer and keep its output."""
        self.capture(layer, (), lambda *_: None, advance=True)

    def advance_to(self, hidden: Iterable[Tensor]) -> None:
        """Replace the hidden states."""
        self._hidden = self._store.many(hidden)

    def tap_value(self, layer: str, index: int, tap: Tap) -> Tensor:
        """One tensor inside a layer; gradients pass if enabled."""
        batch = self._batch(index)
        with capture_taps(self.model, [tap], stop=True) as captured, ending_early():
            call = self._calls[batch][layer].filled(self._returned[batch])
            call_layer(self.model.get_submodule(layer), call, self._hidden[index])
        return captured[tap]

    def predict(self, layer: str, index: int, hidden: Tensor) -> Tensor:
        """The logits of one batch if the last layer ran on `hidden`; gradients pass if enabled."""
        call = self._calls[index][layer].filled(self._returned[index])
        output = first_tensor(call_layer(self.model.get_submodule(layer), call, hidden))
        return self._run_tail(index, last=hidden if output is None else output)[1]

    def unroll(self, layer: str, runs: int) -> None:
        """Keep a repeated layer's inputs, one virtual batch per run."""
        entering = self._store.many()
        with holding(self.model, layer):
            for index, start in enumerate(self._hidden):
                hidden = start
                for _ in range(runs):
                    entering.append(hidden)
                    hidden = self._run_once(layer, index, hidden)
        self._hidden = entering

    def keep_last_run(self, runs: int) -> None:
        """Undo `unroll`: keep the last run."""
        self._hidden = self._hidden.every(runs, runs - 1)

    def run_repeatedly(self, layer: str, runs: int, start: Sequence[Tensor]) -> None:
        """Run a layer several times from `start`."""
        self._hidden = self._store.many(start)
        with holding(self.model, layer):
            for index in range(len(self.batches)):
                for _ in range(runs):
                    self._hidden[index] = self._run_once(layer, index, self._hidden[index])

    @torch.no_grad()
    def capture_tail(self, taps: Sequence[Tap], on_batch: OnBatch) -> None:
        """Run everything after the layers and capture tensors."""
        with holding(self.model):
            for index in range(len(self.batches)):
                on_batch(index, self._run_tail(index, taps)[0])

    @torch.no_grad()
    def logits(self, index: int) -> Tensor:
        """The logits of one batch."""
        return self._run_tail(index)[1]

    def logits_with_gradients(self, index: int) -> Tensor:
        """The same; gradients pass if enabled."""
        return self._run_tail(index)[1]

    def _batch(self, index: int) -> int:
        """The batch of a virtual batch."""
        return index // (len(self._hidden) // len(self.batches))

    @torch.no_grad()
    def _run_once(self, layer: str, batch: int, hidden: Tensor) -> Tensor:
        call = self._calls[batch][layer].filled(self._returned[batch])
        returned = call_layer(self.model.get_submodule(layer), call, hidden)
        self._returned[batch][layer] = self._without_hidden(layer, returned)
        output = first_tensor(returned)
        return hidden if output is None else output

    def _without_hidden(self, layer: str, returned: Any) -> Any:
        """An output without hidden states, unless later layers need them."""
        if not isinstance(returned, tuple):
            return None
        return returned if HandedArgument(layer, 0) in self._handed else (None, *returned[1:])

    def _run_tail(
        self, index: int, taps: Sequence[Tap] = (), last: Tensor | None = None
    ) -> tuple[dict[Tap, Tensor], Tensor]:
        """Tensors and logits, with another output of the last layer if given."""
        self._finished[self._stack] = self._hidden
        with self._skipping(index, last), capture_taps(self.model, taps, stop=False) as captured:
            logits = logits_of(self.model, self.batches[index])
        return captured, logits

    @contextmanager
    def _skipping(self, index: int, last: Tensor | None = None) -> Iterator[None]:
        """Let finished stacks return their kept output; the present one `last`, if given."""
        modules: list[nn.Module] = []

        def passing(layer: str, hidden: Tensor) -> Callable[..., Any]:
            template = self._returned[index].get(layer)
            return lambda *_, **__: (hidden, *template[1:]) if isinstance(template, tuple) else hidden

        try:
            for stack, outputs in self._finished.items():
                hidden = last if last is not None and stack == self._stack else outputs[index]
                for layer in self.stacks[stack]:
                    module = self.model.get_submodule(layer)
                    module.forward = passing(layer, hidden)
                    modules.append(module)
            yield
        finally:
            for module in modules:
                if "forward" in vars(module):
                    del module.forward
