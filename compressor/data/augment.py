"""Changes of training images, by name: the same for the same seed and place in the run, wherever it is computed.

A change is a function of pixels and of numbers in [0, 1) that are drawn for each image, so that a run that is resumed,
or spread over several processes, sees the same images.  Pixels are changed after the preprocessor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compressor.errors import UserError
from compressor.utils.registry import Registry

#: The model input that images are.
PIXELS = "pixel_values"

#: Numbers that are drawn for every image; a change uses the first few of them.
DRAWS = 8
#: The number that says how two images are mixed; changes use the ones before it.
_MIX = DRAWS - 1

#: How far a crop moves an image at most, as a share of its side: 4 of 32 pixels.
SHIFT = 0.125
#: The least share of an image's area that a zoom keeps.
LEAST_AREA = 0.25

Change = Callable[[Tensor, Tensor], Tensor]

#: Changes of pixels [B, C, H, W] by draws [B, DRAWS] in [0, 1), to pixels of the same shape.
AUGMENTATIONS: Registry[Change] = Registry("augmentation")

#: Those that also mix every image with another one of its batch, whose labels say nothing any more.
MIXING = frozenset({"mixup"})


@AUGMENTATIONS.register("none")
def unchanged(pixels: Tensor, draws: Tensor) -> Tensor:
    """The images as they are."""
    return pixels


@AUGMENTATIONS.register("flip")
def flip(pixels: Tensor, draws: Tensor) -> Tensor:
    """Left and right exchanged in half of the images."""
    return torch.where((draws[:, 0] < 0.5)[:, None, None, None], pixels.flip(-1), pixels)


@AUGMENTATIONS.register("crop-flip")
def crop_flip(pixels: Tensor, draws: Tensor) -> Tensor:
    """A flip, and a shift by up to an eighth of the side; what comes in from outside is reflected."""
    height, width = pixels.shape[-2:]
    rows = _shifted(height, draws[:, 1])
    columns = _shifted(width, draws[:, 2])
    columns = torch.where((draws[:, 0] < 0.5)[:, None], columns.flip(-1), columns)
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    return pixels.flatten(2).gather(2, places[:, None].expand(-1, pixels.shape[1], -1)).view_as(pixels)


@AUGMENTATIONS.register("zoom-flip")
def zoom_flip(pixels: Tensor, draws: Tensor) -> Tensor:
    """A flip, and a part of the image enlarged to the whole: a quarter of the area or more, sides up to 4 : 3."""
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
    """`crop-flip`; every image is mixed afterwards (`mix_images`)."""
    return crop_flip(pixels, draws)


def mix_images(pixels: Tensor, others: Tensor, draws: Tensor) -> Tensor:
    """λ · image + (1 - λ) · another one, λ uniform in [0, 1), as for distillation by Beyer et al. 2022 (section 3).

    Args:
        pixels: [B, C, H, W].
        others: their partners, the same shape.
        draws: of `pixels`, [B, DRAWS].
    """
    return torch.lerp(others, pixels, draws[:, _MIX, None, None, None])


def draw_numbers(seed: int, places: Sequence[int]) -> Tensor:
    """Numbers in [0, 1) by seed and place in the run alone, [len(places), DRAWS] float32."""
    # Philox counts: the numbers of a place are found without those before it, four to a count (Salmon et al. 2011).
    first = min(places)
    bits = np.random.Philox(key=seed, counter=first * DRAWS // 4).random_raw((max(places) - first + 1) * DRAWS)
    numbers = ((bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(-1, DRAWS)
    return torch.from_numpy(numbers[[place - first for place in places]])


def check_augmentation(name: str, *, images: bool, labels: bool) -> None:
    """Refuse an augmentation that does not fit what is learnt from.

    Args:
        name: of the augmentation.
        images: whether samples are images.
        labels: whether their labels are learnt from.

    Raises:
        UserError: no augmentation has that name, it is for images, or it leaves the labels without meaning.
    """
    AUGMENTATIONS.get(name)
    if name != "none" and not images:
        raise UserError(f"finetune.augment {name} changes images, and these samples are none: leave it out")
    if name in MIXING and labels:
        raise UserError(
            f"finetune.augment {name} mixes images, whose labels say nothing then: set finetune.label_weight to 0, or "
            "choose another augmentation"
        )


def _shifted(size: int, draws: Tensor) -> Tensor:
    """Where each pixel of a side comes from, [B, size]: all moved by the same, reflected at the ends."""
    most = min(max(round(SHIFT * size), 1), size - 1)
    offset = (draws * (2 * most + 1)).long().clamp(max=2 * most) - most
    places = (offset[:, None] + torch.arange(size)).abs()
    return torch.where(places >= size, 2 * (size - 1) - places, places)
