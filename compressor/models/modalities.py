"""Which kinds of inputs a model reads, from its config."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import transformers
from transformers import PretrainedConfig

from compressor.models.signature import readable_inputs


def has_patches(config: PretrainedConfig) -> bool:
    """Whether the model cuts images of one size into patches of one size."""
    return hasattr(config, "image_size") and hasattr(config, "patch_size")


def is_image_config(config: PretrainedConfig) -> bool:
    """Whether the model reads images: by its patches, or because its class reads pixels and no text."""
    return has_patches(config) or _class_reads_images((config.architectures or [""])[0])


@cache
def _class_reads_images(name: str) -> bool:
    model = getattr(transformers, name, None)
    if getattr(model, "main_input_name", None) != "pixel_values":
        return False
    return not any(each.endswith("input_ids") for each in readable_inputs(model))


@cache
def _class_reads(name: str, argument: str) -> bool:
    model = getattr(transformers, name, None)
    return model is not None and argument in readable_inputs(model)


def reads_lists_of_images(config: PretrainedConfig) -> bool:
    """Whether every sample has several images, and a mask says which of them a token sees."""
    return _class_reads((config.architectures or [""])[0], "image_attention_mask")


def is_audio_config(config: PretrainedConfig) -> bool:
    """Whether the model reads spectrograms."""
    return hasattr(config, "num_mel_bins")


def reads_sound(config: PretrainedConfig) -> bool:
    """Whether the model reads waveforms or features of sounds."""
    features = is_audio_config(config) or hasattr(config, "feature_projection_input_dim")
    return not is_image_config(config) and (features or reads_waves(config))


def reads_waves(config: PretrainedConfig) -> bool:
    """Whether convolutions that the config describes turn waveforms into frames."""
    return all(isinstance(getattr(config, name, None), (list, tuple)) for name in ("conv_stride", "conv_kernel"))


def first_field(config: PretrainedConfig, *names: str, default: Any = None) -> Any:
    """The first of some fields that the config or one of its parts has."""
    for part in (config, *_parts(config)):
        for name in names:
            value = getattr(part, name, None)
            if value is not None:
                return value
    return default


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield value
            yield from _parts(value)


def parts_with(config: PretrainedConfig, *names: str) -> Iterator[PretrainedConfig]:
    """The parts of a config that have all of some fields."""
    for part in (config, *_parts(config)):
        if all(getattr(part, name, None) is not None for name in names):
            yield part


def vision_part(config: PretrainedConfig) -> PretrainedConfig:
    """The config of what reads images: a part, or the whole."""
    for name in ("vision_config", "image_config", "backbone_config", "encoder"):
        part = getattr(config, name, None)
        if isinstance(part, PretrainedConfig):
            return part
    return config


def size_pair(size: Any) -> tuple[int, int]:
    """Height and width of a size, which may be one number."""
    if isinstance(size, dict):
        size = (size["height"], size["width"])
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return height, width


def reads_video(config: PretrainedConfig) -> bool:
    """Whether pixels have frames."""
    return isinstance(getattr(config, "num_frames", None), int) and not hasattr(config, "vision_config")
