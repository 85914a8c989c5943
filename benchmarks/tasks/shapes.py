"""Pictures of a few shapes on a noisy ground, and the boxes around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

#: Pixels along a picture's side, and along a shape's smallest and largest one; most shapes of a picture.
SIDE, SMALLEST, LARGEST, MOST = 32, 8, 15, 3
#: Brightest noise.
_NOISE = 60
SHAPES = ("disc", "square", "cross", "ring")


def save_shapes(folder: Path, samples: dict[str, int]) -> None:
    """Write {split}/{number}.png and {split}/metadata.jsonl with `objects` (bbox, category) of every picture."""
    for split, count in samples.items():
        (folder / split).mkdir(parents=True)
        draw, lines = np.random.default_rng([len(split), count]), []
        for number in range(count):
            pixels, objects = picture(draw)
            Pillow.fromarray(pixels).save(folder / split / f"{number:05}.png")
            lines.append(json.dumps({"file_name": f"{number:05}.png", "objects": objects}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def picture(draw: np.random.Generator) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """A picture [H, W, 3] of 8 bits, and its objects: boxes (left, top, width, height) and names of shapes."""
    pixels = draw.integers(0, _NOISE, (SIDE, SIDE, 3)).astype(np.uint8)
    taken = np.zeros((SIDE, SIDE), bool)
    objects: dict[str, list[Any]] = {"bbox": [], "category": []}
    for _ in range(int(draw.integers(1, MOST + 1))):
        side = int(draw.integers(SMALLEST, LARGEST + 1))
        left, top = (int(place) for place in draw.integers(0, SIDE - side + 1, 2))
        place = (slice(top, top + side), slice(left, left + side))
        if taken[place].any():
            continue
        taken[place] = True
        name = SHAPES[int(draw.integers(len(SHAPES)))]
        pixels[place][shape(name, side)] = draw.integers(120, 256, 3)
        objects["bbox"].append([left, top, side, side])
        objects["category"].append(name)
    return pixels, objects


def shape(name: str, side: int) -> np.ndarray:
    """The pixels of a shape that fills a square, bool [side, side]."""
    down, across = (np.abs(2 * axis - side + 1) / side for axis in np.indices((side, side)))
    radius = np.hypot(down, across)
    return {
        "disc": radius <= 1,
        "square": np.ones((side, side), bool),
        "cross": np.minimum(down, across) <= 0.3,
        "ring": (radius <= 1) & (radius >= 0.6),
    }[name]
