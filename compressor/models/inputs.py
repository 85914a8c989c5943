"""Inputs of a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from compressor.models.signature import readable_inputs
from compressor.models.tasks import predicts_vocabulary


def name_architecture(model: PreTrainedModel) -> None:
    """Name a model's class in its config, as transformers does on saving."""
    if not model.config.architectures:
        model.config.architectures = [type(model).__name__]


def is_image_config(config: PretrainedConfig) -> bool:
    """Whether the model reads images."""
    return hasattr(config, "image_size") and hasattr(config, "patch_size")


def is_audio_config(config: PretrainedConfig) -> bool:
    """Whether the model reads spectrograms."""
    return hasattr(config, "num_mel_bins")


def pad_id(config: PretrainedConfig) -> int:
    """Token of padding: the model's, else its end token, else 0."""
    vocabulary = getattr(config, "vocab_size", None) or 0
    for name in ("pad_token_id", "eos_token_id"):
        token = getattr(config, name, None)
        token = token[0] if isinstance(token, list) and token else token
        if isinstance(token, int) and 0 <= token < vocabulary:
            return token
    return 0


def without_labels(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch without labels."""
    return {name: value for name, value in batch.items() if name != "labels"}


def pass_options(model: Any) -> dict[str, Any]:
    """Arguments of every forward pass: no cache."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def count_tokens(inputs: Mapping[str, Tensor], config: PretrainedConfig) -> int:
    """Unpadded tokens, or patches; encoder–decoders: the lower count."""
    pixels = inputs.get("pixel_values")
    if pixels is not None:
        height, width = size_pair(config.patch_size)
        return int(pixels.shape[0] * (pixels.shape[-2] // height) * (pixels.shape[-1] // width))
    counts = []
    for prefix in ("", "decoder_"):
        ids, mask = inputs.get(f"{prefix}input_ids"), inputs.get(f"{prefix}attention_mask")
        if ids is not None:
            counts.append(ids.numel() if mask is None else int(mask.sum()))
    return min(counts, default=0)


def logits_of_sample(config: PretrainedConfig, inputs: Mapping[str, Any]) -> int:
    """Logits of one sample, if each token predicts the vocabulary; else 1."""
    tokens = inputs.get("decoder_input_ids", inputs.get("input_ids"))
    return int(tokens.shape[-1]) * config.vocab_size if tokens is not None and predicts_vocabulary(config) else 1


def size_pair(size: Any) -> tuple[int, int]:
    """Height and width of a size, which may be one number."""
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return height, width


def dummy_inputs(
    config: PretrainedConfig,
    batch: int = 2,
    length: int = 16,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Random inputs for a config.

    Images: `pixel_values` [B, C, H, W]. Text: `input_ids`, `attention_mask` [B, T], for encoder–decoders
    `decoder_input_ids`, a little shorter. Audio: `input_features` [B, mel bins, frames].
    """
    generator = torch.Generator().manual_seed(seed)
    if is_image_config(config):
        height, width = size_pair(config.image_size)
        channels = getattr(config, "num_channels", 3)
        pixels = torch.randn(batch, channels, height, width, generator=generator)
        return {"pixel_values": pixels.to(device, dtype)}
    inputs: dict[str, Tensor] = {}
    if is_audio_config(config):
        frames = 2 * config.max_source_positions
        inputs["input_features"] = torch.randn(batch, config.num_mel_bins, frames, generator=generator, dtype=dtype)
    else:
        ids = _random_ids(config, batch, length, generator)
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = _random_ids(config, batch, max(1, length - 2), generator)
    return {name: value.to(device) for name, value in inputs.items()}


def _random_ids(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor:
    # Special tokens mean more in some families (RoBERTa counts positions by padding): leave them out.
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    special = [getattr(config, name, None) for name in names]
    low_ones = [i for i in special if isinstance(i, int) and i < config.vocab_size // 2]
    low = min(max([*low_ones, 0]) + 1, config.vocab_size - 1)
    return torch.randint(low, config.vocab_size, (batch, length), generator=generator)


def optional_inputs(model: Any, config: PretrainedConfig, inputs: Mapping[str, Tensor], seed: int = 2) -> dict[str, Tensor]:
    """Random values of what forward reads beyond `inputs`, where known how to make them."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name in readable_inputs(model):
        if name not in inputs and name in _OPTIONAL:
            value = _OPTIONAL[name](config, inputs, generator)
            if value is not None:
                made[name] = value
    return made


def _token_types(config: PretrainedConfig, inputs: Mapping[str, Tensor], generator: torch.Generator) -> Tensor | None:
    ids, types = inputs.get("input_ids"), getattr(config, "type_vocab_size", 0) or 0
    return None if ids is None or types < 2 else torch.randint(types, ids.shape, generator=generator)


def _global_attention(config: PretrainedConfig, inputs: Mapping[str, Tensor], generator: torch.Generator) -> Tensor | None:
    """The first token sees all."""
    ids = inputs.get("input_ids")
    return None if ids is None else (torch.arange(ids.shape[-1]) < 2).to(ids).expand_as(ids).contiguous()


#: {input: (config, other inputs, generator) -> value, or None where a config does not read it}.
_OPTIONAL = {
    "token_type_ids": _token_types,
    "global_attention_mask": _global_attention,
}
