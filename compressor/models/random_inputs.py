"""Random inputs of other kinds than text: images, sound, boxes, series.

Every maker takes (config, batch, length, generator) and returns float tensors in float32, or None where the config does
not say enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compressor.models import image_inputs, patch_inputs, series
from compressor.models.modalities import first_field, parts_with

Maker = Callable[[PretrainedConfig, int, int, torch.Generator], Tensor | None]
#: Image regions, entities and encoder states of a trial.
_REGIONS = 5


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def _sound(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Waveforms [B, samples] of about `length` frames, or spectrograms [B, frames, mel bins] of fixed length."""
    strides, kernels = first_field(config, "conv_stride"), first_field(config, "conv_kernel")
    if isinstance(strides, (list, tuple)) and isinstance(kernels, (list, tuple)):
        return _normal(generator, batch, math.prod(strides) * (length + 4) + sum(kernels))
    bins, frames = getattr(config, "num_mel_bins", None), getattr(config, "max_length", None)
    if bins is None:
        # Convolutions that the config does not describe (Moonshine): some 20 ms of 16 kHz a frame.
        return _normal(generator, batch, 400 * (length + 4))
    return None if frames is None else _normal(generator, batch, frames, bins)


def _spectrum(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """[B, mel bins, frames] of a fixed length, or [B, frames, features]."""
    bins, frames = first_field(config, "num_mel_bins"), first_field(config, "max_source_positions")
    per_token = first_field(config, "audio_length_per_tok")
    if per_token is not None and bins is not None:
        # Sound that accompanies every token (Voxtral Realtime).
        return _normal(generator, batch, int(bins), int(per_token) * length)
    features = first_field(config, "feature_projection_input_dim", "input_feat_per_channel", "input_dim")
    spectrogram = next(parts_with(config, "spec_size", "num_mel_bins"), None)
    if spectrogram is not None:
        return _normal(generator, batch, 1, int(spectrogram.spec_size), int(spectrogram.num_mel_bins))
    filters = first_field(config, "subsampling_conv_channels")
    if features is None and isinstance(filters, (list, tuple)):
        # Two convolutions of stride two leave a quarter of the first one's filters.
        features = filters[0]
    if features is not None:
        return _normal(generator, batch, 8 * length, int(features))
    if bins is None:
        return None
    return (
        _normal(generator, batch, 8 * length, bins) if frames is None else _normal(generator, batch, bins, 2 * frames)
    )


def _mel(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Spectrograms [B, frames, mel bins]."""
    bins = first_field(config, "input_feat_size", "num_mel_bins")
    return None if bins is None else _normal(generator, batch, 8 * length, int(bins))


def _mel_mask(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Frames that are padding [B, frames]: none."""
    return torch.zeros(batch, 8 * length, dtype=torch.bool)


def _task_tokens(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Tokens of the task of an image [B, T], as numbers (OneFormer)."""
    size = first_field(config, "task_seq_len")
    return None if size is None else torch.randint(1, 60, (batch, int(size)), generator=generator).float()


def _languages(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """A language of each sample [B] (X-MOD)."""
    names = getattr(config, "languages", None)
    return None if not names else torch.randint(len(names), (batch,), generator=generator)


def _boxes(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Left, top, right and bottom edges [B, T, 4]."""
    limit = first_field(config, "max_2d_position_embeddings")
    if limit is None:
        return torch.rand(batch, length, 4, generator=generator).sort(dim=-1).values
    corners = torch.randint(int(limit) // 2, (batch, length, 2), generator=generator)
    return torch.cat([corners, corners + int(limit) // 4], dim=-1)


def _queries(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Learned queries [B, N, features] that another model holds."""
    size = first_field(config, "hidden_size")
    return None if size is None else _normal(generator, batch, _REGIONS, int(size))


def _query_tokens(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Tokens [B, T] that learned queries read beside image_inputs."""
    size = first_field(getattr(config, "qformer_config", None) or config, "vocab_size")
    return None if size is None else torch.randint(1, int(size), (batch, length), generator=generator)


def _sound_mask(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """All frames of a spectrogram [B, frames]."""
    spectrum = _spectrum(config, batch, length, generator)
    if spectrum is None:
        return None
    bins = first_field(config, "num_mel_bins")
    return torch.ones(batch, spectrum.shape[2 if spectrum.shape[1] == bins else 1], dtype=torch.long)


def _regions(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Features of image regions [B, N, features]."""
    size = first_field(config, "visual_embedding_dim", "visual_feat_dim")
    return None if size is None else _normal(generator, batch, _REGIONS, int(size))


def _region_boxes(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    size = first_field(config, "visual_pos_dim")
    return None if size is None else torch.rand(batch, _REGIONS, int(size), generator=generator)


def _entities(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    size = first_field(config, "entity_vocab_size")
    return None if size is None else torch.randint(1, int(size), (batch, _REGIONS), generator=generator)


def _entity_places(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Token positions of each entity [B, N, positions], -1 where it has fewer."""
    if first_field(config, "entity_vocab_size") is None:
        return None
    places = torch.randint(length, (batch, _REGIONS, 4), generator=generator)
    places[..., 3] = -1
    return places


def _entity_types(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    if first_field(config, "entity_vocab_size") is None:
        return None
    return torch.randint(
        max(int(first_field(config, "type_vocab_size", default=1)), 1), (batch, _REGIONS), generator=generator
    )


def _indices(*fields: str) -> Maker:
    """Indices [B, T] below a field of the config."""

    def maker(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
        limit = first_field(config, *fields)
        return None if not limit else torch.randint(int(limit), (batch, length), generator=generator)

    return maker


def _xpaths(field: str) -> Maker:
    """Indices [B, T, depth] below a field of the config."""

    def maker(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
        limit, depth = getattr(config, field, None), getattr(config, "max_depth", None)
        return (
            None
            if limit is None or depth is None
            else torch.randint(limit, (batch, length, depth), generator=generator)
        )

    return maker


def _encoder_states(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Outputs of an encoder [B, N, features] for a decoder with cross-attention."""
    sizes = ("cross_attention_hidden_size", "encoder_hidden_size")
    if not getattr(config, "add_cross_attention", False) and not any(hasattr(config, name) for name in sizes):
        return None
    size = first_field(config, *sizes, "hidden_size", "d_model")
    return _normal(generator, batch, _REGIONS, int(size))


def _encoder_outputs(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """As `_encoder_states`, for a decoder whose every layer reads them (Whisper)."""
    size = first_field(config, "hidden_size", "d_model")
    return None if size is None else _normal(generator, batch, _REGIONS, int(size))


#: {input of a forward pass: its maker}.
MAKERS: dict[str, Maker] = {
    "pixel_values": image_inputs.pixels,
    "inputs": image_inputs.any_input,
    "pixel_values_videos": image_inputs.clips,
    "input_values": _sound,
    "input_features": _spectrum,
    "aspect_ratio_ids": image_inputs.tile_shapes,
    "aspect_ratio_mask": image_inputs.tile_mask,
    "cross_attention_mask": image_inputs.tiles_of_tokens,
    "audio_mel": _mel,
    "audio_mel_mask": _mel_mask,
    "task_inputs": _task_tokens,
    "lang_ids": _languages,
    "bbox": _boxes,
    "hidden_states": patch_inputs.patches,
    "grid_thw": patch_inputs.grids,
    "image_grid_thw": patch_inputs.grids,
    "merge_sizes": patch_inputs.merge_sizes,
    "flattened_patches": patch_inputs.flattened_patches,
    "prompt_pixel_values": image_inputs.pixels,
    "prompt_masks": image_inputs.pixels,
    "image_embeds_position_mask": image_inputs.resampled_places,
    "image_attention_mask": image_inputs.seen_images,
    "query_embeds": _queries,
    "qformer_input_ids": _query_tokens,
    "input_features_mask": _sound_mask,
    "past_values": series.past_values,
    "past_values_padding": series.past_padding,
    "freq": series.sampling_rates,
    "state": series.state,
    "past_time_features": series.past_times,
    "past_observed_mask": series.past_observed,
    "future_values": series.future_values,
    "future_time_features": series.future_times,
    "states": series.states,
    "actions": series.actions,
    "rewards": series.returns,
    "returns_to_go": series.returns,
    "timesteps": series.steps,
    "visual_embeds": _regions,
    "visual_feats": _regions,
    "visual_pos": _region_boxes,
    "entity_ids": _entities,
    "entity_position_ids": _entity_places,
    "entity_token_type_ids": _entity_types,
    "token_type_ids": _indices("type_vocab_size"),
    "task_type_ids": _indices("task_type_vocab_size"),
    "input_shape_ids": _indices("shape_vocab_size"),
    "input_pronunciation_ids": _indices("pronunciation_vocab_size"),
    "langs": _indices("n_langs"),
    "xpath_tags_seq": _xpaths("max_xpath_tag_unit_embeddings"),
    "xpath_subs_seq": _xpaths("max_xpath_subs_unit_embeddings"),
    "bool_masked_pos": image_inputs.patch_mask,
    "encoder_hidden_states": _encoder_states,
    "encoder_outputs": _encoder_outputs,
}
