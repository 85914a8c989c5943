"""Images and sounds among tokens: random ones, and as many placeholders as the model makes features of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compressor.models.meta import meta_model, weightless_copy
from compressor.models.modalities import first_field, parts_with, size_pair, vision_part
from compressor.models.patch_inputs import patched_images
from compressor.models.random_inputs import MAKERS

#: Errors of a model that reads its media in another shape.
_SHAPE_ERRORS = (ValueError, TypeError, RuntimeError, AssertionError, KeyError, IndexError, AttributeError)
_Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class _Medium:
    """One sort of media: the method that makes features, fields of its placeholder, and its mark among token types."""

    method: str
    tokens: tuple[str, ...]
    mark: int


_MEDIA = {
    "image": _Medium("get_image_features", ("image_token_id", "image_token_index"), 1),
    "video": _Medium("get_video_features", ("video_token_id", "video_token_index"), 2),
    "audio": _Medium("get_audio_features", ("audio_token_id", "audio_token_index"), 3),
}


@dataclass(frozen=True)
class MediaInputs:
    """Inputs of a batch, and (placeholder token, number in a sample, mark of its token type) of each medium."""

    inputs: _Inputs
    places: tuple[tuple[int, int, int], ...]

    def placed(self, ids: Tensor) -> Tensor:
        """Token ids with placeholders after the first token."""
        parts = [ids[:, :1]]
        parts += [torch.full((len(ids), count), token, dtype=ids.dtype) for token, count, _ in self.places]
        return torch.cat([*parts, ids[:, 1:]], dim=1)

    def token_types(self, ids: Tensor) -> Tensor:
        """0 for text, else the medium's mark."""
        types = torch.zeros_like(ids)
        for token, _, mark in self.places:
            types[ids == token] = mark
        return types


def media_inputs(
    config: PretrainedConfig, model_class: Any, names: Sequence[str], batch: int, generator: torch.Generator
) -> MediaInputs:
    """Random media for a model that reads them at the places of tokens; none for others.

    Args:
        names: what the forward pass reads.
    """
    inputs: _Inputs = {}
    places = []
    for medium in _MEDIA.values():
        token = placeholder(config, medium.tokens)
        if token is None or not isinstance(model_class, type) or not names:
            continue
        found = _first_that_runs(config, medium, names, batch, generator)
        if found is not None:
            inputs |= found[0]
            places.append((token, found[1], medium.mark))
    return MediaInputs(inputs, tuple(places))


def placeholder(config: PretrainedConfig, names: Sequence[str] = ("image_token_id", "image_token_index")) -> int | None:
    """The token at whose places a medium's features are read."""
    tokens = (getattr(config, name, None) for name in names)
    return next((token for token in tokens if isinstance(token, int)), None)


def has_placeholder(config: PretrainedConfig) -> bool:
    """Whether any medium is read at the places of tokens."""
    return any(placeholder(config, medium.tokens) is not None for medium in _MEDIA.values())


#: {key of a config and a medium: place of the candidate that runs, and features of a sample}.
_KNOWN: dict[tuple[str, str, int], tuple[int, int] | None] = {}


def _first_that_runs(
    config: PretrainedConfig, medium: _Medium, names: Sequence[str], batch: int, generator: torch.Generator
) -> tuple[_Inputs, int] | None:
    """The first candidate of which the model makes features, and their number in a sample."""
    candidates = list(_candidates(config, medium, names, batch, generator))
    key = (f"{config.architectures} {config.to_json_string(use_diff=False)}", medium.method, batch)
    if key not in _KNOWN:
        _KNOWN[key] = None
        for build in (meta_model, weightless_copy):
            model = build(config)
            device = next(model.parameters()).device
            counts = (_count(model, medium, candidate, device) for candidate in candidates)
            _KNOWN[key] = next(((k, n // batch) for k, n in enumerate(counts) if n and n % batch == 0), None)
            if _KNOWN[key] is not None:
                break
    known = _KNOWN[key]
    return None if known is None else (candidates[known[0]], known[1])


@torch.no_grad()
def _count(model: Any, medium: _Medium, inputs: _Inputs, device: torch.device) -> int:
    """Features that a model makes of media; 0 if it cannot read them."""
    owners = (model, model.base_model)
    method = next((getattr(owner, medium.method) for owner in owners if hasattr(owner, medium.method)), None)
    if method is None:
        return 0
    taken = inspect.signature(getattr(model, "model", model).__class__.__dict__.get(medium.method, method)).parameters
    given = {name: value.to(device) for name, value in inputs.items() if name in taken or "kwargs" in taken}
    try:
        features = method(**given)
    except _SHAPE_ERRORS:
        return 0
    features = getattr(features, "pooler_output", features)
    rows = features if isinstance(features, (tuple, list)) else [features]
    return sum(row.numel() // row.shape[-1] for row in rows if isinstance(row, Tensor))


def _candidates(
    config: PretrainedConfig, medium: _Medium, names: Sequence[str], batch: int, generator: torch.Generator
) -> Iterator[_Inputs]:
    if medium is _MEDIA["audio"]:
        yield from _sounds(config, names, batch, generator)
        return
    if medium is _MEDIA["video"]:
        yield from _videos(config, names, batch, generator)
        return
    vision = vision_part(config)
    if "image_grid_thw" in names:
        yield from _grids(vision, batch, generator)
    height, width = size_pair(first_field(vision, "image_size", default=64))
    channels = int(first_field(vision, "num_channels", "in_channels", default=3))

    def pixels(*images: int) -> Tensor:
        return torch.randn(batch, *images, channels, height, width, generator=generator)

    if "image_sizes" in names:
        pinpoints = getattr(config, "image_grid_pinpoints", None)
        if pinpoints:
            rows, columns = (max(1, int(side) // height) for side in pinpoints[0])
            yield {"pixel_values": pixels(rows * columns + 1), "image_sizes": torch.tensor([pinpoints[0]] * batch)}
        yield {"pixel_values": pixels(), "image_sizes": torch.tensor([[height, width]] * batch)}
    if "spatial_shapes" in names:
        yield patched_images(config, names, batch, generator)
    if "pixel_attention_mask" in names:
        mask = torch.ones(batch, 1, height, width, dtype=torch.bool)
        yield {"pixel_values": pixels(1), "pixel_attention_mask": mask}
    yield {"pixel_values": pixels()}
    yield {"pixel_values": pixels(1)}


def _grids(vision: PretrainedConfig, batch: int, generator: torch.Generator) -> Iterator[_Inputs]:
    """Patches of all images in one list, [Σ patches, values], and their grids [images, 3] (time, rows, columns)."""
    patch, _ = size_pair(first_field(vision, "patch_size", default=14))
    channels = int(first_field(vision, "in_channels", "in_chans", "num_channels", default=3))
    frames = int(first_field(vision, "temporal_patch_size", default=1))
    side = 2 * int(first_field(vision, "spatial_merge_size", default=1))
    grid = torch.tensor([[1, side, side]] * batch)
    shapes: list[tuple[int, ...]] = [(channels * frames * patch * patch,), (channels, patch, patch)]
    for shape in shapes:
        yield {"pixel_values": torch.randn(batch * side * side, *shape, generator=generator), "image_grid_thw": grid}


def _videos(
    config: PretrainedConfig, names: Sequence[str], batch: int, generator: torch.Generator
) -> Iterator[_Inputs]:
    """Videos of two frames."""
    vision = vision_part(config)
    if "video_grid_thw" in names:
        for grid in _grids(vision, batch, generator):
            yield {"pixel_values_videos": grid["pixel_values"], "video_grid_thw": grid["image_grid_thw"]}
    if "pixel_values_videos" in names:
        height, width = size_pair(first_field(vision, "image_size", default=64))
        channels = int(first_field(vision, "num_channels", "in_channels", default=3))
        yield {"pixel_values_videos": torch.randn(batch, 2, channels, height, width, generator=generator)}


def _sounds(
    config: PretrainedConfig, names: Sequence[str], batch: int, generator: torch.Generator
) -> Iterator[_Inputs]:
    """Spectrograms [B, mel bins, frames] or [B, frames, mel bins], or waveforms, with masks of all frames."""
    main = next((name for name in ("input_features", "input_values") if name in names), None)
    if main is None:
        return
    made: list[Tensor] = []
    for part in parts_with(config, "num_mel_bins", "max_source_positions"):
        frames = 2 * int(part.max_source_positions)
        made.append(torch.randn(batch, int(part.num_mel_bins), frames, generator=generator))
    for part in parts_with(config, "num_mel_bins", "n_window"):
        # Whole windows.
        made.append(torch.randn(batch, int(part.num_mel_bins), 2 * int(part.n_window), generator=generator))
    for part in parts_with(config, "num_mel_bins", "num_stacked_frames"):
        features = int(part.num_mel_bins) * int(part.num_stacked_frames)
        made.append(torch.randn(batch, 16, features, generator=generator))
    bins = int(first_field(config, "num_mel_bins", "input_feat_size", "input_dim", default=80))
    made += [
        torch.randn(batch, 64, bins, generator=generator),
        torch.randn(batch, bins, 64, generator=generator),
    ]
    if main == "input_values":
        # One channel.
        made.append(torch.randn(batch, 1, 6400, generator=generator))
    value = MAKERS[main](config, batch, 8, generator)
    made = [value, *made] if value is not None else made
    masks = [name for name in names if name in ("feature_attention_mask", "input_features_mask", "padding_mask")]
    for sound in made:
        yield {main: sound}
        for frames in {sound.shape[-1], sound.shape[1]}:
            yield {main: sound, **{name: torch.ones(batch, frames, dtype=torch.long) for name in masks}}
