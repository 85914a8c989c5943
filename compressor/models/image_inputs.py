"""Random whole images, tiles and clips, and the masks that say who sees them.

Makers are of `random_inputs.MAKERS`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compressor.models.modalities import first_field, reads_lists_of_images, reads_video, size_pair, vision_part

#: Side of an image for models that take any.
_SIDE = 64


def pixels(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor:
    """[B, C, H, W], [B, images or frames, C, H, W]; of models that cut images into tiles [B, 1, tiles, C, H, W]."""
    part = vision_part(config)
    frames = [int(part.num_frames)] if reads_video(part) else []
    tiles = getattr(part, "max_num_tiles", None)
    leading = [1] if reads_lists_of_images(config) else frames
    return _image(part, generator, batch, *(leading if tiles is None else [1, int(tiles)]))


def _image(part: PretrainedConfig, generator: torch.Generator, *leading: int) -> Tensor:
    """[..., C, H, W]."""
    height, width = size_pair(first_field(part, "image_size", "img_size", "input_size", default=_SIDE))
    channels = int(first_field(part, "num_channels", "in_channels", "in_chans", default=3))
    return torch.randn(*leading, channels, height, width, generator=generator)


def any_input(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """What a model of any modality reads: images where the config has a size of them."""
    return None if getattr(config, "image_size", None) is None else _image(config, generator, batch)


def tile_shapes(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """The arrangement of the tiles of an image, from 1 [B, 1]."""
    shapes = first_field(config, "supported_aspect_ratios")
    return None if shapes is None else torch.randint(1, len(shapes) + 1, (batch, 1), generator=generator)


def tile_mask(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """All tiles of an image, for the tower [B, 1, tiles]."""
    tiles = first_field(config, "max_num_tiles")
    return None if tiles is None else torch.ones(batch, 1, int(tiles), dtype=torch.long)


def tiles_of_tokens(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """All tiles of an image, for every token [B, T, 1, tiles]."""
    tiles = first_field(config, "max_num_tiles")
    return None if tiles is None else torch.ones(batch, length, 1, int(tiles), dtype=torch.long)


def clips(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """[B, frames, C, H, W] of video models."""
    part = vision_part(config)
    frames = first_field(part, "frames_per_clip", "num_frames")
    side = first_field(part, "crop_size", "image_size", default=_SIDE)
    return (
        None if frames is None or side is None else torch.randn(batch, frames, 3, *size_pair(side), generator=generator)
    )


def seen_images(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor:
    """The image that each token sees [B, T, images]: the only one."""
    return torch.ones(batch, length, 1, dtype=torch.long)


def resampled_places(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Where tokens stand for the features of an image [B, T] (Kosmos-2)."""
    count = first_field(config, "latent_query_num")
    if count is None or int(count) > length:
        return None
    return (torch.arange(length) < int(count)).expand(batch, length).contiguous()


def patch_mask(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Masked patches [B, N]."""
    part = vision_part(config)
    image, patch = getattr(part, "image_size", None), getattr(part, "patch_size", None)
    if image is None or patch is None:
        return None
    (height, width), (rows, columns) = size_pair(image), size_pair(patch)
    count = (height // rows) * (width // columns)
    frames = int(part.num_frames) // int(getattr(part, "tubelet_size", 1)) if reads_video(part) else 1
    # As many in every sample: some models gather the rest.
    return (torch.arange(count * frames) % 3 == 0).expand(batch, count * frames).contiguous()
