"""A model without weights, for what only its code knows: how many positions it holds, how its decoder is fed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compressor.models.weights import model_class
from compressor.utils.logging import quiet_transformers

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model of a config on the meta device."""
    with quiet_transformers(), torch.device("meta"):
        return model_class(config)(copy.deepcopy(config))


def most_positions(config: PretrainedConfig) -> int | None:
    """The longest text that a model can read, in tokens; None if its config names no limit.

    RoBERTa and its kin keep the first positions for padding; their table of positions says so.
    """
    found = next((value for name in _POSITIONS if isinstance(value := getattr(config, name, None), int)), None)
    if found is None or found <= 0:
        return None
    for name, module in meta_model(config).named_modules():
        if isinstance(module, nn.Embedding) and "position" in name and module.num_embeddings == found:
            return found if module.padding_idx is None else found - module.padding_idx - 1
    return found


def forward_takes(config: PretrainedConfig, name: str) -> bool:
    """Whether the model's forward has an argument of that name."""
    return name in inspect.signature(model_class(config).forward).parameters


def reads_pairs(config: PretrainedConfig) -> bool:
    """Whether the model tells the two texts of a pair apart by `token_type_ids`."""
    return forward_takes(config, "token_type_ids") and getattr(config, "type_vocab_size", 0) > 1


def as_pair(config: PretrainedConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs [B, T] whose second half is another text, for models that tell pairs apart; of others as they are."""
    found = dict(inputs)
    if "input_ids" in found and reads_pairs(config):
        ids = found["input_ids"]
        found["token_type_ids"] = (torch.arange(ids.shape[1]) >= ids.shape[1] // 2).to(ids).expand_as(ids).contiguous()
    return found


class DecoderInputs:
    """Labels of an encoder–decoder, shifted right by the model's own rule.

    Args:
        config: the model's.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        self._config = config
        self._model: Any = meta_model(config)

    def __call__(self, labels: Tensor) -> Tensor:
        """`decoder_input_ids` [B, T] of labels [B, T] without padding."""
        if hasattr(self._model, "prepare_decoder_input_ids_from_labels"):
            try:
                return self._model.prepare_decoder_input_ids_from_labels(labels)
            # Configs without a start token: the rule below has one.
            except (ValueError, AttributeError, TypeError):
                pass
        names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
        start = next((value for name in names if isinstance(value := getattr(self._config, name, None), int)), 0)
        return torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
