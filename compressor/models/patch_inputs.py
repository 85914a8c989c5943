"""Random images as lists of patches, for towers that take images of any shape.

Makers are of `random_inputs.MAKERS`.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compressor.models.modalities import first_field, size_pair, vision_part

#: Rows and columns of patches of an image.
_ROWS = 4
#: Inputs that say where the patches of a list belong.
PLACES = ("spatial_shapes", "grid_thw", "image_grid_thw", "pixel_position_ids")


def patched_images(
    config: PretrainedConfig, names: Collection[str], batch: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Pixels as a list of patches, with what a model reads of their places; {} for models that read whole images.

    Args:
        names: what the forward pass reads.
    """
    part = vision_part(config)
    if "spatial_shapes" in names:
        # Patches [B, N, values], with rows and columns [B, 2].
        side = max(1, int(first_field(part, "num_patches", default=16) ** 0.5))
        return {
            "pixel_values": torch.randn(batch, side * side, _values(part), generator=generator),
            "pixel_attention_mask": torch.ones(batch, side * side, dtype=torch.long),
            "spatial_shapes": torch.tensor([[side, side]] * batch),
        }
    if "pixel_position_ids" in names:
        return {
            "pixel_values": torch.rand(batch, _ROWS * _ROWS, _values(part), generator=generator),
            "pixel_position_ids": _positions().expand(batch, -1, -1).contiguous(),
        }
    grid = next((name for name in ("grid_thw", "image_grid_thw") if name in names), None)
    if grid is None or "pixel_values" not in names:
        return {}
    patches = torch.randn(batch * _ROWS * _ROWS, _values(part), generator=generator)
    return {"pixel_values": patches, grid: _grid(batch)}


def patches(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Patches of all images in one list [N, values], of towers that read them with `grids`."""
    if not isinstance(getattr(config, "patch_size", None), int) or getattr(config, "temporal_patch_size", None) is None:
        return None
    return torch.randn(batch * _ROWS * _ROWS, _values(config), generator=generator)


def grids(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Frames, rows and columns of the patches of each image [B, 3]."""
    return _grid(batch)


def merge_sizes(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Neighbouring patches that become one feature, each way [B]."""
    return torch.full((batch,), 2)


def flattened_patches(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Patches [B, N, 2 + values], each after its row and column (Pix2Struct)."""
    size = first_field(config, "patch_embed_hidden_size")
    if size is None:
        return None
    places = 1 + _positions().double().expand(batch, -1, -1)
    return torch.cat([places, torch.randn(batch, _ROWS * _ROWS, int(size), generator=generator)], dim=-1)


def _values(part: PretrainedConfig) -> int:
    """Values of a patch: channels, frames, rows and columns."""
    height, width = size_pair(first_field(part, "patch_size", default=16))
    channels = int(first_field(part, "in_channels", "in_chans", "num_channels", default=3))
    return channels * int(first_field(part, "temporal_patch_size", default=1)) * height * width


def _grid(batch: int) -> Tensor:
    return torch.tensor([[1, _ROWS, _ROWS]] * batch)


def _positions() -> Tensor:
    """Column and row of each patch [N, 2]."""
    return torch.cartesian_prod(torch.arange(_ROWS), torch.arange(_ROWS)).flip(-1)
