"""Pictures of a few handwritten digits on a dark ground: where they are, and which."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from compressor.models.builtin import digits

#: Pixels along a picture's side, and along a digit's smallest and largest one.
SIDE, SMALLEST, LARGEST = 32, 8, 14
#: Most digits of a picture.
MOST = 4
#: Brightness, of 16 levels, above which a pixel belongs to the digit.
INK = 4
#: Names of classes of pixels.
PIXEL_CLASSES = ("ground", *"0123456789")


@dataclass(frozen=True)
class Scene:
    """A picture [H, W] of 8 bits, its mask of classes [H, W], and boxes (left, top, width, height) of digits."""

    picture: np.ndarray
    mask: np.ndarray
    boxes: list[tuple[int, int, int, int]]
    digits: list[int]


def scenes(split: str, count: int) -> list[Scene]:
    """Scenes of digits that do not touch; those of "test" are of scikit-learn's digits that are kept for tests."""
    pictures, names = digits("test" if split == "test" else "train")
    draw = np.random.default_rng([len(split), count])
    return [_scene(draw, pictures, names) for _ in range(count)]


def _scene(draw: np.random.Generator, pictures: np.ndarray, names: np.ndarray) -> Scene:
    scene = Scene(np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8), [], [])
    taken = np.zeros((SIDE, SIDE), bool)
    for _ in range(int(draw.integers(1, MOST + 1))):
        chosen, side = int(draw.integers(len(pictures))), int(draw.integers(SMALLEST, LARGEST + 1))
        left, top = (int(place) for place in draw.integers(0, SIDE - side + 1, 2))
        place = (slice(top, top + side), slice(left, left + side))
        if taken[place].any():
            continue
        taken[place] = True
        digit = np.asarray(Pillow.fromarray(pictures[chosen]).resize((side, side), Pillow.Resampling.BILINEAR))
        rows, columns = np.nonzero(digit > INK * pictures.max() / 16)
        scene.picture[place] = digit
        scene.mask[top + rows, left + columns] = 1 + names[chosen]
        box = (left + columns.min(), top + rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1)
        scene.boxes.append((int(box[0]), int(box[1]), int(box[2]), int(box[3])))
        scene.digits.append(int(names[chosen]))
    return scene


def save_masks(folder: Path, samples: dict[str, int]) -> None:
    """Write images/{split}/{number}.png and masks/{split}/{number}.png."""
    for split, count in samples.items():
        for number, scene in enumerate(scenes(split, count)):
            for kind, pixels in (("images", scene.picture), ("masks", scene.mask)):
                file = folder / kind / split / f"{number:05}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Pillow.fromarray(pixels).save(file)
