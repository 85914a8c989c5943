"""Refusing configs that no model can be built from."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from compressor.errors import UserError
from compressor.models.modalities import has_patches
from compressor.utils.logging import one_line, quiet_transformers
from compressor.utils.out_of_memory import is_out_of_memory

#: Sizes that are at least 1 in every model; other faults show when the model is built.
_SIZE = re.compile(
    r"hidden_sizes?|d_model|d_ff|d_kv|n_embd|dim|hidden_dim|(intermediate|ffn|encoder_ffn|decoder_ffn)_(size|dim)"
    r"|n_heads?|num_heads|num_(attention|key_value)_heads|(encoder|decoder)_attention_heads"
    r"|num_hidden_layers|num_layers|n_layers?|vocab_size|patch_size|image_size|num_channels|head_dim|embedding_size|max_position_embeddings|n_positions"
)
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation", "dense_act_fn")
#: Configs that could be built, not tried again.
_BUILT: set[str] = set()


def check_fields(location: str | Path, config: PretrainedConfig) -> None:
    """Refuse bad names, sizes and activations; skips the class's defaults.

    Raises:
        UserError: names field and value.
    """
    named = config.architectures
    if named is not None and not (isinstance(named, list | tuple) and all(isinstance(name, str) for name in named)):
        given = one_line(repr(named), 60)
        raise UserError(f"the config of {location} is broken: architectures is {given} and should be a list of classes")
    defaults = _defaults(config)
    for field, value in config.to_dict().items():
        if field in defaults and value == defaults[field] and type(value) is type(defaults[field]):
            continue
        if _SIZE.fullmatch(field):
            _check_field_size(location, field, value)
        elif field in _ACTIVATIONS and isinstance(value, str) and value not in ACT2FN:
            raise UserError(f"the config of {location} is broken: {field} is {value!r}, which is no activation")
    if has_patches(config):
        _check_patches(location, config)


def check_buildable(location: str | Path, config: PretrainedConfig, cls: type[PreTrainedModel]) -> None:
    """Refuse a config that its class cannot be built from; allocates nothing.

    Raises:
        UserError: with the class's message.
    """
    key = f"{cls.__name__} {json.dumps(config.to_dict(), sort_keys=True, default=str)}"
    if key in _BUILT:
        return
    if config.is_encoder_decoder and has_patches(config) and not _has_decoder(cls):
        raise UserError(f"the config of {location} is broken: is_encoder_decoder is true and {cls.__name__} is none")
    try:
        with quiet_transformers(), torch.device("meta"):
            cls(copy.deepcopy(config))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        problem = _beyond_vocabulary(config) or _error_text(error)
        raise UserError(f"cannot build {cls.__name__} from the config of {location}: {problem}") from error
    _BUILT.add(key)


def _beyond_vocabulary(config: PretrainedConfig) -> str | None:
    """A line on a padding token without an embedding, which torch refuses in words of its own."""
    pad, vocabulary = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if not isinstance(pad, int) or not isinstance(vocabulary, int) or -vocabulary <= pad < vocabulary:
        return None
    return f"pad_token_id is {pad}, and the vocabulary has {vocabulary} tokens (ids 0 to {vocabulary - 1})"


def _has_decoder(cls: type[PreTrainedModel]) -> bool:
    """Whether a decoder reads its own earlier tokens."""
    return "decoder_input_ids" in inspect.signature(cls.forward).parameters


def _defaults(config: PretrainedConfig) -> dict[str, Any]:
    try:
        return type(config)().to_dict()
    # Configs of several models (nougat, gemma4_assistant) have no defaults that are valid: then every field is checked.
    except (ValueError, TypeError, StrictDataclassError):
        return {}


def _check_field_size(location: str | Path, field: str, value: Any) -> None:
    if any(not isinstance(number, int) or isinstance(number, bool) or number < 1 for number in _numbers(value)):
        given = one_line(repr(value), 60)
        raise UserError(f"the config of {location} is broken: {field} is {given} and should be a positive whole number")


def _numbers(value: Any) -> Iterator[Any]:
    """Numbers of a size, list or dict."""
    if isinstance(value, dict):
        value = list(value.values())
    for item in value if isinstance(value, list | tuple) else (value,):
        if isinstance(item, list | tuple | dict):
            yield from _numbers(item)
        elif item is not None:
            yield item


def _check_patches(location: str | Path, config: PretrainedConfig) -> None:
    image, patch = _height_and_width(config.image_size), _height_and_width(config.patch_size)
    if image is None or patch is None:
        field = "image_size" if image is None else "patch_size"
        value = one_line(repr(getattr(config, field)), 60)
        raise UserError(f"the config of {location} is broken: {field} is {value} and should be one number or two")
    if patch[0] > image[0] or patch[1] > image[1]:
        raise UserError(
            f"the config of {location} is broken: patches of {patch[0]}×{patch[1]} do not fit into images of "
            f"{image[0]}×{image[1]} (patch_size, image_size)"
        )


def _height_and_width(size: Any) -> tuple[int, int] | None:
    """Two numbers from one or two, else None."""
    if isinstance(size, int):
        return size, size
    return (size[0], size[1]) if isinstance(size, list | tuple) and len(size) == 2 else None


def _error_text(error: Exception) -> str:
    """An exception's message, with its class if a bare key."""
    return f"{type(error).__name__} {one_line(error)}" if isinstance(error, KeyError | IndexError) else one_line(error)
