"""Linear maps and norms in call order, and residual taps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy.axes import Kind, Side, Space
from compressor.anatomy.canonical import centre_writers, fold_norms, fold_scales
from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE, Inputs, answers_of, logits_change
from compressor.anatomy.checkpoints import Checkpoints
from compressor.anatomy.hooks import (
    Trace,
    all_outputs,
    capture_inputs,
    capture_outputs,
    is_linear,
    is_pointwise,
    product_scale,
    trace,
    write_dim,
)
from compressor.anatomy.resize import BUILD_ERRORS
from compressor.anatomy.spec import Anatomy, LayerScale, LinearOp, Norm


class Flow:
    """Adds the flow to a certified anatomy; `tied` weights also embed."""

    def __init__(self, model: nn.Module, trials: Sequence[Inputs], anatomy: Anatomy, tied: frozenset[str]) -> None:
        self.model, self.trials, self.anatomy, self.tied = model, trials, anatomy, tied
        # The trial that reaches most shows the order of modules; all of them prove.
        inputs = self.inputs = trials[0]
        self.modules = dict(model.named_modules())
        self.trace: Trace = trace(model, inputs, anatomy.layers)
        self.order = list(dict.fromkeys(self.trace.order()))
        # Norms of signals [B, C, T] have no rows of features to be fitted to: their scales are carried over.
        groups = [name for name, module in self.modules.items() if isinstance(module, nn.GroupNorm)]
        with torch.no_grad(), capture_outputs(model, groups) as outputs:
            if groups:
                all_outputs(model, inputs)
        self.signals = {name for name, found in outputs.items() if found and found[0].dim() == 3}
        by_id = {id(parameter): name for name, parameter in model.named_parameters()}
        self.weights = {
            name: by_id[id(module.weight)]
            for name, module in self.modules.items()
            if isinstance(getattr(module, "weight", None), nn.Parameter) and id(module.weight) in by_id
        }

    def complete(self) -> Anatomy:
        """The complete anatomy."""
        norms = {name: self._norm(name) for name in self.order if self._is_norm(name)}
        linears = [name for name in self.order if self._is_step(name)]
        items: dict[str, LinearOp | Norm] = {**{name: self._step(name) for name in linears}, **norms}
        streams = {space.name for space in self.anatomy.residuals}
        readers = [name for name, item in items.items() if isinstance(item, LinearOp) and item.reads in streams]
        self.candidates = {*norms, *readers, *self.anatomy.layers}
        ordered = [items[name] for name in self.order if name in items]
        anatomy = replace(self.anatomy, flow=tuple(_with_sources(ordered, self._inputs_of(linears))))
        anatomy = replace(anatomy, scales=self._scales(anatomy))
        # A layer scale would hide the writer's addition.
        self._fold(anatomy)
        places = [(name, name in self.anatomy.layers) for name in self.order if name in self.candidates]
        self.checkpoints = Checkpoints(self.model, self.inputs, places, items)
        flow = tuple(self._with_checkpoint(self._with_readers(item, anatomy)) for item in anatomy.flow)
        anatomy = replace(anatomy, flow=flow)
        spaces = {name: self._with_scale(space, anatomy) for name, space in anatomy.spaces.items()}
        return self._with_canonical_form(replace(anatomy, spaces=spaces))

    def _inputs_of(self, modules: Sequence[str]) -> dict[str, Tensor]:
        """What modules read when they run first."""
        with torch.no_grad(), capture_inputs(self.model, modules) as inputs:
            all_outputs(self.model, self.inputs)
        return inputs

    def _is_step(self, name: str) -> bool:
        """Whether a module is a linear map; of convolutions those of single pixels after the layers, of one input."""
        module = self.modules[name]
        if write_dim(module) is None or name not in self.weights:
            return False
        if not is_pointwise(module):
            return True
        axes = self.anatomy.axes.get(self.weights[name], ())
        return not name.startswith(tuple(f"{layer}." for layer in self.anatomy.layers)) and all(
            len(axis.parts) == 1 for axis in axes
        )

    def _with_scale(self, space: Space, anatomy: Anatomy) -> Space:
        """A space with its measured `scaled`."""
        if space.kind is not Kind.ATTENTION or space.rotary:
            return space
        writers = [step.module for step in anatomy.steps if step.writes == space.name]
        products = product_scale(self.model, self.inputs, writers)
        return space if products is None else replace(space, scaled=products < 0.9 * space.head_dim)

    def _fold(self, anatomy: Anatomy) -> None:
        # Compute all before changing any, since they depend on each other.
        state = dict(fold_scales(dict(self.model.named_parameters()), anatomy.scales, anatomy))
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(state[name])

    def _with_readers(self, item: LinearOp | Norm, anatomy: Anatomy) -> LinearOp | Norm:
        """A norm without readers gets the head."""
        if not isinstance(item, Norm) or item.readers:
            return item
        later = anatomy.flow[anatomy.flow.index(item) + 1 :]
        if any(isinstance(other, Norm) and other.space == item.space for other in later):
            return item
        readers = tuple(op.module for op in later if isinstance(op, LinearOp) and op.reads == item.space)
        return replace(item, readers=readers)

    def _is_norm(self, name: str) -> bool:
        """Whether a module has scales and is not linear."""
        module, weight = self.modules[name], self.weights.get(name)
        if weight is None or is_linear(module) or isinstance(module, nn.Embedding) or name in self.signals:
            return False
        if module.weight.dim() != 1 or weight not in self.anatomy.axes:
            return False
        try:
            self._unit_scale(name)
        except BUILD_ERRORS:
            return False  # reads a gate too
        return True

    def _norm(self, name: str) -> Norm:
        axis = self.anatomy.axes[self.weights[name]][0]
        # A norm of several tokens side by side has no map of its own.
        key = axis.parts[0].key if len(axis.parts) == 1 else None
        space = key.partition("/")[0] if key else None
        readers = tuple(r for r in dict.fromkeys(self.trace.readers_of(name)) if self._reads(r, space))
        return Norm(name, readers, space, self._unit_scale(name))

    def _reads(self, module: str, space: str | None) -> bool:
        """Whether a module reads a space."""
        parameters = {name for name in self.anatomy.axes if name.rpartition(".")[0] == module}
        parameters.add(self.weights.get(module, ""))
        return any(
            axis.side is Side.READ or name in self.tied
            for name in parameters & self.anatomy.axes.keys()
            for axis in self.anatomy.axes[name]
            if any(part.key == space for part in axis.parts)
        )

    def _unit_scale(self, name: str) -> float:
        """1, or 0 for scales of 1 + weight."""
        module = self.modules[name]
        with torch.no_grad():
            before = module.weight.clone()
            module.weight.zero_()
            scaled = _normed(module)
            module.weight.copy_(before)
        shift = getattr(module, "bias", None)
        scaled = scaled - shift if isinstance(shift, Tensor) else scaled
        return 0.0 if float(scaled.abs().max()) > 1e-6 else 1.0

    def _step(self, name: str) -> LinearOp:
        weight = self.weights[name]
        reads, writes = self._ends(weight, tied=weight in self.tied)
        return LinearOp(name, writes, reads, weight, tied=weight in self.tied)

    def _ends(self, weight: str, *, tied: bool) -> tuple[str | None, str | None]:
        """Spaces (read, written); tied: the embedding's."""
        ends: dict[Side, str | None] = {Side.READ: None, Side.WRITE: None}
        for axis in self.anatomy.axes.get(weight, ()):
            key = next((part.key.partition("/")[0] for part in axis.parts if part.key), None)
            ends[axis.side] = key or ends[axis.side]
        return (ends[Side.WRITE], None) if tied else (ends[Side.READ], ends[Side.WRITE])

    def _with_checkpoint(self, item: LinearOp | Norm) -> LinearOp | Norm:
        """A residual item with checkpoint and gain."""
        layer = next((layer for layer in self.anatomy.layers if item.module.startswith(layer + ".")), None)
        written = item.writes if isinstance(item, LinearOp) else item.space
        if layer is None or written not in {space.name for space in self.anatomy.residuals}:
            return item
        place = self.order.index(item.module)
        later = [(name, name in self.anatomy.layers) for name in self.order[place + 1 :] if name in self.candidates]
        checkpoint = self.checkpoints.after(item.module, later[:6])
        if checkpoint is None or (isinstance(item, Norm) and checkpoint[0] == item.module):
            return item
        module, is_output, gain = checkpoint
        return replace(item, checkpoint=module, checkpoint_is_output=is_output, gain=gain)

    def _scales(self, anatomy: Anatomy) -> tuple[LayerScale, ...]:
        """Residual scales that fold."""
        vectors = [
            name
            for name, axes in anatomy.axes.items()
            if len(axes) == 1 and axes[0].parts[0].key in {space.name for space in anatomy.residuals}
            and name.rpartition(".")[2] not in ("weight", "bias")
        ]  # fmt: skip
        state = dict(self.model.named_parameters())
        scales = []
        for name in vectors:
            layer = next((layer for layer in anatomy.layers if name.startswith(layer + ".")), None)
            for step in anatomy.steps:
                inside = layer is not None and step.module.startswith(layer + ".")
                if inside and step.writes == anatomy.axes[name][0].parts[0].key:
                    scale = LayerScale(name, step.module)
                    folded = fold_scales(state, (scale,), anatomy)
                    if logits_change(self.model, self.trials, folded) <= CERTIFICATE_TOLERANCE:
                        scales.append(scale)
                        break
        return tuple(scales)

    def _with_canonical_form(self, anatomy: Anatomy) -> Anatomy:
        """Find by trial which norms fold, and which writers may be centred."""
        state = {name: parameter.data for name, parameter in self.model.named_parameters()}
        residuals = [space.name for space in anatomy.spaces.values() if space.kind is Kind.RESIDUAL]
        before = answers_of(self.model, self.trials)
        flow = []
        for item in anatomy.flow:
            if isinstance(item, Norm) and item.space in residuals and item.readers:
                folded = fold_norms(state, [item], anatomy)
                unchanged = (
                    folded is not None
                    and logits_change(self.model, self.trials, folded, before=before) <= CERTIFICATE_TOLERANCE
                )
                item = replace(item, folded=unchanged)
            flow.append(item)
        anatomy = replace(anatomy, flow=tuple(flow))
        centred = {
            name
            for name in residuals
            if logits_change(self.model, self.trials, centre_writers(state, anatomy, name), before=before)
            <= CERTIFICATE_TOLERANCE
        }
        return replace(anatomy, centred=frozenset(centred))


def _with_sources(items: Sequence[LinearOp | Norm], inputs: Mapping[str, Tensor]) -> Iterator[LinearOp | Norm]:
    """The items with their `source`: queries and keys may read positions too, and values not (DETR)."""
    source: str | None = None
    for item in items:
        if isinstance(item, LinearOp) and item.module in inputs:
            if source is not None and torch.equal(inputs[source], inputs[item.module]):
                item = replace(item, source=source)
            else:
                source = item.module
        yield item


def _normed(module: Any) -> Tensor:
    """Random vectors through a norm, [..., C]; norms of maps take channels second."""
    channels, dtype = module.weight.numel(), module.weight.dtype
    for shape in ((2, 3, channels), (2, channels, 3), (2, channels, 3, 3)):
        with suppress(RuntimeError, ValueError):
            place = 2 if shape[-1] == channels and len(shape) == 3 else 1
            return module(torch.randn(shape, dtype=dtype)).movedim(place, -1)
    raise ValueError(f"{type(module).__name__} takes vectors of no known shape")
