"""Models whose weights are read block by block when a forward pass needs them, and dropped afterwards.

A block is a layer (an entry of an outermost module list), or everything outside the layers.  Between its turns a
parameter is one NaN, expanded: it takes no memory, and what reads it without its block computes NaN.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compressor.models.configs.reading import model_class
from compressor.models.headless.configured import as_configured
from compressor.models.ties import untie
from compressor.utils.logging import quiet_transformers

#: The block of everything outside the layers.
OUTSIDE = ""
_ATTRIBUTE = "_weight_blocks"


class StoredWeights(Mapping[str, Tensor]):
    """Tensors of safetensors files, read at each access and converted.

    Args:
        places: {name: file and name in it}.
        dtype: of the tensors given.
    """

    def __init__(self, places: Mapping[str, tuple[Path, str]], dtype: torch.dtype = torch.float32) -> None:
        self._places, self.dtype = dict(places), dtype
        self._shapes: dict[str, torch.Size] = {}

    def __getitem__(self, name: str) -> Tensor:
        path, stored = self._places[name]
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(stored)
            # A copy: the tensor is mapped to the file, which may change.
            return tensor.to(self.dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def add(self, path: Path, names: Sequence[str]) -> None:
        """Add the tensors of a file."""
        self._places.update({name: (path, name) for name in names})

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """{name: shape}, from the files' headers."""
        for name in self._places.keys() - self._shapes.keys():
            path, stored = self._places[name]
            with safe_open(path, framework="pt") as file:
                self._shapes[name] = torch.Size(file.get_slice(stored).get_shape())
        return self._shapes


class WeightBlocks:
    """The weights of one model, by block.

    Args:
        source: {parameter: values}, read at each turn; what it lacks is NaN until it is set.
        precision: of the files, which a student takes over.
    """

    def __init__(
        self, model: PreTrainedModel, source: Mapping[str, Tensor], precision: torch.dtype = torch.float32
    ) -> None:
        self.source, self.precision = source, precision
        self._blocks = _parameters_by_block(model)
        self._held: dict[str, int] = dict.fromkeys(self._blocks, 0)
        self._hooks = {block: _load_in_passes(self, model.get_submodule(block), block) for block in self._blocks}
        vars(model)[_ATTRIBUTE] = self

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("a model whose weights are read from disk must not be copied whole")

    def block_of(self, name: str) -> str:
        """The block of a module or parameter."""
        return next((block for block in self._blocks if block and f"{name}.".startswith(f"{block}.")), OUTSIDE)

    @property
    def paths(self) -> list[str]:
        """All blocks."""
        return list(self._blocks)

    def hook_ids(self, block: str) -> list[int]:
        """Of the hooks that load a block."""
        return [handle.id for handle in self._hooks[block]]

    def names(self, block: str) -> list[str]:
        """The parameters of a block."""
        return list(self._blocks[block])

    @contextmanager
    def held(self, block: str) -> Iterator[None]:
        """Keep a block in memory."""
        self.take(block)
        try:
            yield
        finally:
            self.drop(block)

    @torch.no_grad()
    def take(self, block: str) -> None:
        """Read a block, unless it is there; each call needs one of `drop`."""
        self._held[block] += 1
        if self._held[block] > 1:
            return
        for name, parameter in self._blocks[block].items():
            if name not in self.source:
                parameter.data = torch.full(parameter.shape, float("nan"), dtype=parameter.dtype)
            else:
                parameter.data = self.source[name].to(parameter.dtype)

    def drop(self, block: str) -> None:
        """Undo one `take`; the last drops the values."""
        self._held[block] -= 1
        if not self._held[block]:
            for parameter in self._blocks[block].values():
                parameter.data = _nothing(parameter)

    @torch.no_grad()
    def settle(self, model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
        """Make the model an ordinary one, in place, its weights in memory in that precision."""
        for block, parameters in self._blocks.items():
            for name, parameter in parameters.items():
                values = parameter.data if self._held[block] else self.source[name]
                parameter.data = values.to(dtype)
        for handles in self._hooks.values():
            for handle in handles:
                handle.remove()
        del vars(model)[_ATTRIBUTE]
        return model


def blocks_of(model: nn.Module) -> WeightBlocks | None:
    """A model's blocks, if its weights are read when needed."""
    blocks: WeightBlocks | None = vars(model).get(_ATTRIBUTE)
    return blocks


@contextmanager
def holding(model: nn.Module, name: str = OUTSIDE) -> Iterator[None]:
    """Keep the block of a module in memory; nothing to do for models that are there whole."""
    blocks = blocks_of(model)
    if blocks is None:
        yield
        return
    with blocks.held(blocks.block_of(name)):
        yield


def weights_of(model: nn.Module) -> Mapping[str, Tensor]:
    """All tensors that a model stores, by name; read at each access where they are on disk."""
    blocks, state = blocks_of(model), model.state_dict()
    if blocks is None:
        return state
    return _LazyState(state, blocks.source, _sources(model))


class _LazyState(Mapping[str, Tensor]):
    """A state dict whose parameters are read at each access."""

    def __init__(self, state: Mapping[str, Tensor], source: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        self._state, self._source, self._names = state, source, names

    def __getitem__(self, name: str) -> Tensor:
        return self._source[self._names[name]] if name in self._names else self._state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def weightless_model(config: PretrainedConfig, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """A config's model in evaluation mode with real buffers, whose parameters take no memory.

    Args:
        options: of `_from_config`, such as attn_implementation.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False), quiet_transformers(errors=False):
        built = as_configured(model_class(config)._from_config(config, dtype=dtype, **options))
        model: PreTrainedModel = untie(built)
    return empty_parameters(model).eval()


def empty_parameters(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the parameters by ones that take no memory, in place; ties stay."""
    empty: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                new = nn.Parameter(_nothing(parameter), requires_grad=False)
                module._parameters[name] = empty.setdefault(id(parameter), new)
    return model


def _nothing(parameter: Tensor) -> Tensor:
    return torch.full((), float("nan"), dtype=parameter.dtype).expand(parameter.shape)


def _sources(model: nn.Module) -> dict[str, str]:
    """{name of a parameter: the name its values are stored by}; tied ones have several."""
    first: dict[int, str] = {}
    return {n: first.setdefault(id(p), n) for n, p in model.named_parameters(remove_duplicate=False)}


def _parameters_by_block(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    blocks: dict[str, dict[str, nn.Parameter]] = {OUTSIDE: {}}
    layers = layers_of(model)
    blocks.update({layer: {} for layer in layers})
    for name, parameter in model.named_parameters():
        block = next((layer for layer in layers if name.startswith(f"{layer}.")), OUTSIDE)
        blocks[block][name] = parameter
    return blocks


def layers_of(model: nn.Module) -> list[str]:
    """Entries of the outermost module lists."""
    lists: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in lists):
            lists.append(name)
    return [f"{name}.{index}" for name in lists for index in range(len(model.get_submodule(name)))]  # type: ignore[arg-type]


def _load_in_passes(blocks: WeightBlocks, module: nn.Module, block: str) -> list[Any]:
    """Have a module's block in memory while it runs."""
    taken: list[bool] = []

    def before(module: nn.Module, *_: Any) -> None:
        # A layer whose forward is replaced needs no weights.
        taken.append("forward" not in vars(module))
        if taken[-1]:
            blocks.take(block)

    def after(*_: Any) -> None:
        if taken and taken.pop():
            blocks.drop(block)

    # Called after an error too, by which captures end a pass.
    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]


def streamed_copy(model: PreTrainedModel, source: Mapping[str, Tensor]) -> PreTrainedModel:
    """A model of the same class whose weights are read from another source; buffers are copied."""
    blocks = blocks_of(model)
    assert blocks is not None
    empty = {id(p): nn.Parameter(_nothing(p), requires_grad=False) for p in model.parameters()}
    copied = copy_with_parameters(model, empty)
    WeightBlocks(copied, source, blocks.precision)
    return copied


def copy_with_parameters(model: PreTrainedModel, parameters: Mapping[int, nn.Parameter]) -> PreTrainedModel:
    """A copy with other parameters, by the ids of its own, which reads no weights."""
    blocks, memo = blocks_of(model), dict[int, Any](parameters)
    if blocks is None:
        return copy.deepcopy(model, memo)
    copied = copy.deepcopy(model, {**memo, id(blocks): None})
    del vars(copied)[_ATTRIBUTE]
    for block in blocks.paths:
        module = copied.get_submodule(block)
        for hook in blocks.hook_ids(block):
            module._forward_hooks.pop(hook, None)
            module._forward_pre_hooks.pop(hook, None)
            module._forward_hooks_always_called.pop(hook, None)
    return copied
