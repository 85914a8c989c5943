"""CIFAR-10 in memory: its splits as bytes, the crops and flips of training, and the preprocessor of every teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_dataset
from torch import Tensor
from torch.nn.functional import pad
from transformers import ViTImageProcessor

from compressor.utils.logging import quiet_transformers

SIDE = 32
#: Black pixels around an image that a random crop may reach into.
MARGIN = 4
VALIDATION = 5000
#: Of the images that validate: the same ones for every teacher, whatever its own seed.
SPLIT_SEED = 0

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


@dataclass(frozen=True)
class Images:
    """Images and their classes.

    Attributes:
        pixels: [N, 3, 32, 32] uint8; decoded once, since a loader would take longer than a small model.
        labels: [N] int64.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> Images:
        return Images(self.pixels[rows], self.labels[rows])


@dataclass(frozen=True)
class Cifar:
    """The splits; `validation` is taken from the training images, and `test` chooses nothing."""

    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images


def cifar10(folder: Path) -> Cifar:
    """Read train.parquet and test.parquet, with images in `img` and classes in `label`."""
    files = {name: str(folder / f"{name}.parquet") for name in ("train", "test")}
    splits = load_dataset("parquet", data_files=files)
    given, test = _images(splits["train"]), _images(splits["test"])
    order = torch.from_numpy(np.random.default_rng(SPLIT_SEED).permutation(len(given)))
    return Cifar(
        tuple(splits["train"].features["label"].names),
        given.select(order[VALIDATION:]),
        given.select(order[:VALIDATION]),
        test,
    )


def preprocessor() -> ViTImageProcessor:
    """What turns an image into a teacher's inputs: that of all of them, so that they can be fused with each other."""
    with quiet_transformers():
        return ViTImageProcessor(
            do_resize=False,
            size={"height": SIDE, "width": SIDE},
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=list(MEAN),
            image_std=list(STD),
        )


def normalised(pixels: Tensor, processor: ViTImageProcessor) -> Tensor:
    """What `processor` makes of images that are tensors already: [N, 3, 32, 32] float32."""
    known = (processor.image_mean, processor.image_std)
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in known)
    return (pixels * processor.rescale_factor - mean) / std


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of each image with a margin around it, every other one flipped from left to right."""
    count, channels = pixels.shape[:2]
    top, left = torch.randint(0, 2 * MARGIN + 1, (2, count, 1), generator=generator)
    flipped = torch.randint(0, 2, (count, 1), generator=generator).bool()
    along = torch.arange(SIDE)
    rows, columns = top + along, left + torch.where(flipped, along.flip(0), along)
    return pad(pixels, (MARGIN,) * 4)[
        torch.arange(count).view(-1, 1, 1, 1),
        torch.arange(channels).view(1, -1, 1, 1),
        rows.view(count, 1, SIDE, 1),
        columns.view(count, 1, 1, SIDE),
    ]


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of row numbers, a new order in each epoch; a rest smaller than a batch is left out."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].split(size)


def _images(split: Dataset) -> Images:
    decoded = (np.asarray(image.convert("RGB")) for image in split["img"])
    pixels = torch.from_numpy(np.stack(list(decoded))).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(split["label"][:]))
