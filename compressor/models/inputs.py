"""What a model takes in: its task, and inputs of the right shape for a config."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from compressor.errors import UnsupportedError

#: How a class name of transformers ends, and the task that this stands for.  The first match counts.
TASK_OF_HEAD: dict[str, str] = {
    "ForImageClassification": "image-classification",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "masked-lm",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForConditionalGeneration": "seq2seq-lm",
    "Model": "features",
}


def name_architecture(model: PreTrainedModel) -> None:
    """Name a model's class in its config, as transformers does only when it saves a model; one that is named stays."""
    if not model.config.architectures:
        model.config.architectures = [type(model).__name__]


def task_of(config: PretrainedConfig) -> str:
    """The task that `config.architectures` stands for, one of the values of `TASK_OF_HEAD`.

    Raises:
        UnsupportedError: the config names no architecture, or one whose task is not known.
    """
    names = config.architectures or []
    if not names:
        raise UnsupportedError(
            f"the {config.model_type} config names no architecture: add `architectures` to config.json"
        )
    for ending, task in TASK_OF_HEAD.items():
        if names[0].endswith(ending):
            return task
    raise UnsupportedError(f"{names[0]} has a task that is not known here (known endings: {', '.join(TASK_OF_HEAD)})")


def is_image_config(config: PretrainedConfig) -> bool:
    """Whether the model reads images."""
    return hasattr(config, "image_size") and hasattr(config, "patch_size")


def is_audio_config(config: PretrainedConfig) -> bool:
    """Whether the model reads spectrograms."""
    return hasattr(config, "num_mel_bins")


def count_tokens(inputs: Mapping[str, Tensor], config: PretrainedConfig) -> int:
    """Token vectors that a batch makes without padding: patches of images; of encoder–decoders those of the fewer.

    Args:
        inputs: of the model.
        config: the model's.
    """
    pixels = inputs.get("pixel_values")
    if pixels is not None:
        size = config.patch_size
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        return int(pixels.shape[0] * (pixels.shape[-2] // height) * (pixels.shape[-1] // width))
    counts = []
    for prefix in ("", "decoder_"):
        ids, mask = inputs.get(f"{prefix}input_ids"), inputs.get(f"{prefix}attention_mask")
        if ids is not None:
            counts.append(ids.numel() if mask is None else int(mask.sum()))
    return min(counts, default=0)


def dummy_inputs(
    config: PretrainedConfig,
    batch: int = 2,
    length: int = 16,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Random inputs of a config, by what it reads.

    Images: `pixel_values` [B, C, H, W].  Text: `input_ids` and `attention_mask` [B, T].  Encoder–decoders have
    `decoder_input_ids` [B, T'] as well, T' a little shorter.  Audio: `input_features` [B, mel bins, frames].
    """
    generator = torch.Generator().manual_seed(seed)
    if is_image_config(config):
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else tuple(size)
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
    # Special ids get a meaning of their own in some families (RoBERTa counts positions by padding): keep clear of them.
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    special = [getattr(config, name, None) for name in names]
    low_ones = [i for i in special if isinstance(i, int) and i < config.vocab_size // 2]
    low = min(max([*low_ones, 0]) + 1, config.vocab_size - 1)
    return torch.randint(low, config.vocab_size, (batch, length), generator=generator)


def without_labels(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a model's call."""
    return {name: value for name, value in batch.items() if name != "labels"}
