"""Augmentations of training images.

Random numbers depend on seed and position alone: resumed and distributed runs see the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compressor.errors import UserError
from compressor.utils.registry import Registry

#: The model input of images.
PIXELS = "pixel_values"

#: Random numbers an image.
DRAWS = 8
#: The draw that sets the share of mixing.
_MIX = DRAWS - 1

#: Largest shift, as a share of the side.
SHIFT = 0.125
#: Smallest share of an image's area that a zoom keeps.
LEAST_AREA = 0.25

Augmentation = Callable[[Tensor, Tensor], Tensor]

#: (pixels [B, C, H, W], draws [B, DRAWS] in [0, 1)) -> pixels.
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")

#: Augmentations that mix images, which makes labels meaningless.
MIXING = frozenset({"mixup"})


@AUGMENTATIONS.register("none")
def keep_pixels(pixels: Tensor, draws: Tensor) -> Tensor:
    """Leaves images as they are."""
    return pixels


@AUGMENTATIONS.register("flip")
def flip(pixels: Tensor, draws: Tensor) -> Tensor:
    """Mirrors half of the images, left to right."""
    return torch.where((draws[:, 0] < 0.5)[:, None, None, None], pixels.flip(-1), pixels)


@AUGMENTATIONS.register("crop-flip")
def crop_flip(pixels: Tensor, draws: Tensor) -> Tensor:
    """Flips, and shifts by up to an eighth, with reflected borders."""
    height, width = pixels.shape[-2:]
    rows = _shifted(height, draws[:, 1])
    columns = _shifted(width, draws[:, 2])
    columns = torch.where((draws[:, 0] < 0.5)[:, None], columns.flip(-1), columns)
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    return pixels.flatten(2).gather(2, places[:, None].expand(-1, pixels.shape[1], -1)).view_as(pixels)


@AUGMENTATIONS.register("zoom-flip")
def zoom_flip(pixels: Tensor, draws: Tensor) -> Tensor:
    """Flips, and enlarges a part: at least a quarter of the area, sides up to 4 : 3."""
    area = LEAST_AREA + (1 - LEAST_AREA) * draws[:, 1]
    ratio = (4 / 3) ** (draws[:, 2] - 0.5)
    high, wide = ((area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1))
    down, right = ((2 * draws[:, 3] - 1) * (1 - high), (2 * draws[:, 4] - 1) * (1 - wide))
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0] = torch.where(draws[:, 0] < 0.5, -wide, wide)
    theta[:, 0, 2], theta[:, 1, 1], theta[:, 1, 2] = right, high, down
    grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


@AUGMENTATIONS.register("mixup")
def mixed_later(pixels: Tensor, draws: Tensor) -> Tensor:
    """Flips and shifts as `crop-flip`, then mixes images in pairs."""
    return crop_flip(pixels, draws)


def mix_images(pixels: Tensor, others: Tensor, draws: Tensor) -> Tensor:
    """λ · image + (1 - λ) · another, λ uniform in [0, 1): Beyer et al. 2022, section 3.

    Images are [B, C, H, W], draws [B, DRAWS].
    """
    return torch.lerp(others, pixels, draws[:, _MIX, None, None, None])


def draw_numbers(seed: int, places: Sequence[int]) -> Tensor:
    """Random numbers, [len(places), DRAWS] float32."""
    # Philox counts by four numbers, so that any position can be drawn directly (Salmon et al. 2011).
    first = min(places)
    bits = np.random.Philox(key=seed, counter=first * DRAWS // 4).random_raw((max(places) - first + 1) * DRAWS)
    numbers = ((bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(-1, DRAWS)
    return torch.from_numpy(numbers[[place - first for place in places]])


def check_augmentation(name: str, *, images: bool, labels: bool, placed: bool = False) -> None:
    """Refuse an unfit augmentation.

    Args:
        labels: whether there is a loss on labels.
        placed: whether these are masks or boxes, which stay where they are.

    Raises:
        UserError: unknown name, no images, or mixing or moving them with a loss on labels.
    """
    AUGMENTATIONS.get(name)
    if name != "none" and not images:
        raise UserError(f"finetune.augment {name} changes images, and these samples are none: leave it out")
    if name in MIXING and labels:
        raise UserError(
            f"finetune.augment {name} mixes images, whose labels say nothing then: set finetune.label_weight to 0, or "
            "choose another augmentation"
        )
    if name != "none" and labels and placed:
        raise UserError(
            f"finetune.augment {name} moves pixels, and their masks or boxes stay where they are: set "
            "finetune.label_weight to 0, or leave the augmentation out"
        )


def _shifted(size: int, draws: Tensor) -> Tensor:
    """Source of each pixel along a side, [B, size], reflected at the ends."""
    most = min(max(round(SHIFT * size), 1), size - 1)
    offset = (draws * (2 * most + 1)).long().clamp(max=2 * most) - most
    places = (offset[:, None] + torch.arange(size)).abs()
    return torch.where(places >= size, 2 * (size - 1) - places, places)
