"""Pictures of two handwritten digits, and what a caption says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from compressor.models.builtin import digits

#: Pixels along a picture's side, and along a digit's.
SIDE, DIGIT = 24, 10
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: Words of captions.
WORDS = (*NUMBERS, "left", "of", "above")


def save_captions(folder: Path, samples: dict[str, int]) -> None:
    """Write {split}/{number}.png and {split}/metadata.jsonl with `file_name` and `caption`."""
    for split, count in samples.items():
        (folder / split).mkdir(parents=True)
        pictures, names = digits("test" if split == "test" else "train")
        draw, lines = np.random.default_rng([len(split), count]), []
        for number in range(count):
            chosen = draw.integers(0, len(pictures), 2)
            beside = bool(draw.integers(2))
            board = np.zeros((SIDE, SIDE), np.uint8)
            for place, index in enumerate(chosen):
                along, across = place * SIDE // 2 + int(draw.integers(0, 3)), int(draw.integers(0, SIDE - DIGIT + 1))
                top, left = (across, along) if beside else (along, across)
                digit = Pillow.fromarray(pictures[index]).resize((DIGIT, DIGIT), Pillow.Resampling.BILINEAR)
                board[top : top + DIGIT, left : left + DIGIT] = np.asarray(digit)
            Pillow.fromarray(board).save(folder / split / f"{number:05}.png")
            first, second = (NUMBERS[names[index]] for index in chosen)
            caption = f"{first} {'left of' if beside else 'above'} {second}"
            lines.append(json.dumps({"file_name": f"{number:05}.png", "caption": caption}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
