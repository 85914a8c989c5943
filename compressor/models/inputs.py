"""Inputs of a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from compressor.errors import UnsupportedError, UserError
from compressor.models.media import has_placeholder, media_inputs, placeholder
from compressor.models.modalities import (
    first_field,
    has_patches,
    is_audio_config,
    is_image_config,
    size_pair,
)
from compressor.models.patch_inputs import patched_images
from compressor.models.random_inputs import MAKERS
from compressor.models.signature import readable_inputs, required_inputs
from compressor.models.tasks.table import find_task, predicts_vocabulary

#: Texts of a sample of which one is chosen.
CHOICES = 3


def name_architecture(model: PreTrainedModel) -> None:
    """Name a model's class in its config, as transformers does on saving."""
    if not model.config.architectures:
        model.config.architectures = [type(model).__name__]


def pad_id(config: PretrainedConfig) -> int:
    """Token of padding: the model's, else its end token, else 0."""
    vocabulary = getattr(config, "vocab_size", None) or 0
    for name in ("pad_token_id", "eos_token_id"):
        token = getattr(config, name, None)
        token = token[0] if isinstance(token, list) and token else token
        if isinstance(token, int) and 0 <= token < vocabulary:
            return token
    return 0


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config of a model's text part, which may be the whole."""
    try:
        return config.get_text_config()
    # Several text models.
    except ValueError:
        return config


def classifies_text(config: PretrainedConfig) -> bool:
    """Whether a model has one answer for a text.

    Raises:
        UnsupportedError: as `find_task`.
    """
    return find_task(config).per_text


def check_padding(name: str, config: PretrainedConfig) -> None:
    """Refuse a text classifier without padding: it cannot read several texts.

    Raises:
        UserError: says what to set.
    """
    if classifies_text(config) and getattr(text_config(config), "pad_token_id", None) is None:
        raise UserError(f"{name} has no pad_token_id, so it cannot read batches: set model.config.pad_token_id")


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
        height, width = size_pair(_first_patch(config))
        return int(pixels.shape[0] * (pixels.shape[-2] // height) * (pixels.shape[-1] // width))
    counts = []
    for prefix in ("", "decoder_"):
        ids, mask = inputs.get(f"{prefix}input_ids"), inputs.get(f"{prefix}attention_mask")
        if ids is not None:
            counts.append(ids.numel() if mask is None else int(mask.sum()))
    return min(counts, default=0)


def _first_patch(config: PretrainedConfig) -> Any:
    """The size of a patch; of models of stages the step from one to the next."""
    strides = getattr(config, "strides", None)
    return strides[0] if strides else first_field(config, "patch_size", default=16)


def logits_of_sample(config: PretrainedConfig, inputs: Mapping[str, Any]) -> int:
    """Logits of one sample, if each token predicts the vocabulary; else 1."""
    tokens = inputs.get("decoder_input_ids", inputs.get("input_ids"))
    return int(tokens.shape[-1]) * config.vocab_size if tokens is not None and predicts_vocabulary(config) else 1


def dummy_inputs(
    config: PretrainedConfig,
    batch: int = 2,
    length: int = 16,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Random inputs for a config: those that its class cannot do without.

    Images: `pixel_values` [B, C, H, W]. Text: `input_ids`, `attention_mask` [B, T], for encoder–decoders
    `decoder_input_ids`, a little shorter; several texts a sample: [B, C, T]. Audio: `input_features`
    [B, mel bins, frames]. Others: `random_inputs.MAKERS`.

    Raises:
        UnsupportedError: none can be made; names the input.
    """
    generator = torch.Generator().manual_seed(seed)
    needed = _needed_inputs(config)
    inputs: dict[str, Tensor] = {}
    choices = CHOICES if bool(config.architectures) and find_task(config).choices else 1
    if "input_ids" in needed:
        inputs |= _tokens_and_media(config, batch * choices, length, generator)
        if config.is_encoder_decoder and config.architectures and classifies_text(config):
            # The answer is read at the last end token (BART, T5).
            inputs["input_ids"][:, -1] = int(config.eos_token_id)
    if "pixel_values" in needed and "input_ids" not in needed:
        inputs |= patched_images(config, _read_by(config), batch, generator)
    for name in needed:
        if name in ("input_ids", "decoder_input_ids") or name in inputs:
            continue
        value = MAKERS[name](config, batch, length, generator) if name in MAKERS else None
        if value is None:
            raise UnsupportedError(f"no random {name} can be made for this {config.model_type}, so it cannot be tried")
        inputs[name] = value
    if "decoder_input_ids" in needed:
        inputs["decoder_input_ids"] = _random_ids(config, batch, max(1, length - 2), generator)
    if choices > 1:
        inputs = {name: value.unflatten(0, (batch, choices)) for name, value in inputs.items()}
    return {name: _placed(value, dtype, device) for name, value in inputs.items()}


def _tokens_and_media(
    config: PretrainedConfig, batch: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Tokens, and what is read at the places of some of them."""
    ids = _random_ids(config, batch, length, generator)
    names = _read_by(config)
    media = media_inputs(config, _class_of(config), names, batch, generator)
    if media.places:
        ids = media.placed(ids)
    types = {"mm_token_type_ids": media.token_types(ids)} if "mm_token_type_ids" in names else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **media.inputs, **types}


def _class_of(config: PretrainedConfig) -> Any:
    """The class that a config names, or None."""
    return getattr(transformers, (config.architectures or [""])[0], None)


def _read_by(config: PretrainedConfig) -> list[str]:
    """What the class of a config reads, as far as known."""
    model = _class_of(config)
    return readable_inputs(model) if model is not None else []


def _placed(value: Tensor, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _needed_inputs(config: PretrainedConfig) -> list[str]:
    """Inputs without which the config's class does not run, as far as its signature and config say."""
    model = _class_of(config)
    known = _read_by(config)
    if is_image_config(config) and "input_ids" not in known:
        clips = "pixel_values_videos" in known and "pixel_values" not in known
        pixels = "pixel_values_videos" if clips else "pixel_values"
        required = [name for name in required_inputs(model) if name != pixels] if known else []
        return [*([pixels] if pixels in known or not known else []), *required]
    needed = required_inputs(model) if model is not None else []
    main = getattr(model, "main_input_name", "input_ids")
    needed += [main] if main in known or not known else []
    if is_audio_config(config) and not known:
        needed = ["input_features"]
    if is_dual_config(config) and not has_placeholder(config):
        needed += ["input_ids", "input_features" if "input_features" in known else "pixel_values"]
    if "input_ids" in known and (has_placeholder(config) or hasattr(config, "vocab_size")):
        needed += ["input_ids"]
    # What answers about a text shifts it itself.
    shifted = bool(config.architectures) and find_task(config).columns
    needed += ["decoder_input_ids"] if config.is_encoder_decoder and not shifted else []
    wanted = {*needed, *_ALWAYS}
    # A decoder of a series reads the values to predict, as training does.
    future = ["future_values"] if "future_time_features" in known else []
    masks = [name for name in known if name.endswith("mask") and name not in MAKERS]
    return [n for n in known if n in wanted and n not in masks] + future or list(dict.fromkeys(needed))


#: Inputs that have a default in the signature and are needed nevertheless.
_ALWAYS = (
    "bbox", "visual_feats", "visual_pos", "input_features_mask", "future_time_features", "actions", "rewards",
    "returns_to_go", "timesteps",
)  # fmt: skip


def is_dual_config(config: PretrainedConfig) -> bool:
    """Whether images and texts are read side by side, without places for images among the tokens."""
    if placeholder(config) is not None:
        return False
    others = ("vision_config", "image_config", "audio_config")
    parts = hasattr(config, "text_config") and any(hasattr(config, other) for other in others)
    return parts or (has_patches(config) and hasattr(config, "vocab_size"))


def _random_ids(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor:
    # Special tokens mean more in some families (RoBERTa counts positions by padding): leave them out.
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    vocabulary = int(first_field(config, "vocab_size", default=first_field(config, "num_hash_buckets", default=0)))
    if vocabulary < 2:
        raise UnsupportedError(
            f"no random tokens can be made for this {config.model_type}: its config has no vocab_size"
        )
    special = [getattr(config, name, None) for name in names]
    low_ones = [i for i in special if isinstance(i, int) and i < vocabulary // 2]
    low = min(max([*low_ones, 0]) + 1, vocabulary - 1)
    ids = torch.randint(low, vocabulary, (batch, length), generator=generator)
    places = [v for n, v in config.to_dict().items() if n.endswith(("_token_id", "_token_index")) and v not in special]
    for place in places:
        ids[ids == place] = low if low != place else low - 1
    return ids


def optional_inputs(
    model: Any, config: PretrainedConfig, inputs: Mapping[str, Tensor], seed: int = 2
) -> dict[str, Tensor]:
    """Random values of what forward reads beyond `inputs`, where known how to make them."""
    generator = torch.Generator().manual_seed(seed)
    first = next(iter(inputs.values()))
    if "input_ids" in inputs and inputs["input_ids"].dim() > 2:
        # Several texts a sample: as many samples, joined again.
        shape = inputs["input_ids"].shape[:2]
        flat = {name: value.flatten(0, 1) for name, value in inputs.items()}
        return {name: value.unflatten(0, shape) for name, value in optional_inputs(model, config, flat, seed).items()}
    batch, length = first.shape[0], inputs["input_ids"].shape[1] if "input_ids" in inputs else 8
    made: dict[str, Tensor] = {}
    for name in readable_inputs(model):
        value = None
        if name not in inputs and name in MAKERS:
            value = MAKERS[name](config, batch, length, generator)
            place = placeholder(config)
            if value is None and name == "token_type_ids" and place is not None and "input_ids" in inputs:
                # No table of types: they tell images from text in the mask.
                value = (inputs["input_ids"] == place).long()
        elif name == "global_attention_mask" and "input_ids" in inputs:
            # The first tokens see all.
            value = (torch.arange(length) < 2).long().expand(batch, length).contiguous()
        if value is not None:
            made[name] = value.double() if value.is_floating_point() else value
    return made
