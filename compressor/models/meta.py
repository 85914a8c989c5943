"""Models without weights."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from compressor.errors import UnsupportedError
from compressor.models.configs.reading import model_class
from compressor.models.headless.configured import as_configured
from compressor.models.streamed import copy_with_parameters
from compressor.models.ties import untie
from compressor.utils.logging import quiet_transformers

#: Most modules of a model; 94 layers with 512 experts of five modules each have 240,000.
MAX_MODULES = 1_000_000
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """A config's float32 model on the meta device.

    Raises:
        UnsupportedError: unknown class, or more than `MAX_MODULES` modules.
    """
    with torch.device("meta"), quiet_transformers(errors=False), _bounded_modules(config.model_type):
        # Initial values that are not there take a third of the time of a build.
        with no_init_weights():
            model = model_class(config)._from_config(copy.deepcopy(config), dtype=torch.float32)
        # An empty initialisation leaves out the ties as well.
        model.tie_weights(recompute_mapping=False)
        return untie(as_configured(model))


@contextmanager
def _bounded_modules(model_type: str) -> Iterator[None]:
    """Stop an endless build: any field may be a number of modules."""
    count = 0

    def register(module: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal count
        count += 1
        if count > MAX_MODULES:
            raise UnsupportedError(f"the {model_type} config asks for more than {MAX_MODULES} modules")

    handle = register_module_module_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


def weightless_copy(model: PreTrainedModel | PretrainedConfig) -> PreTrainedModel:
    """A CPU copy with eager attention and experts, its parameters expanded zeros; ties stay.

    Raises:
        UnsupportedError: as `meta_model`.
    """
    with quiet_transformers(), torch.no_grad():
        if isinstance(model, PretrainedConfig):
            copied = meta_model(model)
            _materialise(copied)
        else:
            # Copied from the modules: the config no longer describes a model pruned by hand.
            copied = copy_with_parameters(model, {id(parameter): _zero(parameter) for parameter in model.parameters()})
            for module in copied.modules():
                for name, buffer in module._buffers.items():
                    module._buffers[name] = None if buffer is None else buffer.cpu()
        copied.set_attn_implementation("eager")
        if copied._can_set_experts_implementation():
            copied.set_experts_implementation("eager")
    return copied.eval()


def _materialise(model: nn.Module) -> None:
    zeros: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = zeros.setdefault(id(parameter), _zero(parameter))
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)


def _zero(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False)


def most_positions(config: PretrainedConfig) -> int | None:
    """The longest text in tokens, if limited; position tables of RoBERTa reserve the first."""
    # Of towers that of texts.
    part = config if any(hasattr(config, name) for name in _POSITIONS) else getattr(config, "text_config", config)
    limit = next((value for name in _POSITIONS if isinstance(value := getattr(part, name, None), int)), None)
    if limit is None or limit <= 0:
        return None
    for name, module in meta_model(config).named_modules():
        if isinstance(module, nn.Embedding) and "position" in name and module.num_embeddings == limit:
            return limit if module.padding_idx is None else limit - module.padding_idx - 1
    return limit


def forward_takes(config: PretrainedConfig, name: str) -> bool:
    """Whether forward has that argument."""
    return name in inspect.signature(model_class(config).forward).parameters


def reads_pairs(config: PretrainedConfig) -> bool:
    """Whether `token_type_ids` distinguish the texts of a pair."""
    return forward_takes(config, "token_type_ids") and getattr(config, "type_vocab_size", 0) > 1


def as_pair(config: PretrainedConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs [B, ..., T], their second half marked as another text, if distinguished."""
    pair = dict(inputs)
    if "input_ids" in pair and reads_pairs(config):
        ids = pair["input_ids"]
        pair["token_type_ids"] = (torch.arange(ids.shape[-1]) >= ids.shape[-1] // 2).to(ids).expand_as(ids).contiguous()
    return pair


class DecoderInputs:
    """Shifts labels of an encoder–decoder right, as the model does."""

    def __init__(self, config: PretrainedConfig) -> None:
        self._config = config
        self._model: Any = meta_model(config)

    def __call__(self, labels: Tensor) -> Tensor:
        """`decoder_input_ids` [B, T] of unpadded labels."""
        if hasattr(self._model, "prepare_decoder_input_ids_from_labels"):
            try:
                return self._model.prepare_decoder_input_ids_from_labels(labels)
            # Configs without a start token: use the rule below.
            except (ValueError, AttributeError, TypeError):
                pass
        names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
        start = next((value for name in names if isinstance(value := getattr(self._config, name, None), int)), 0)
        return torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
