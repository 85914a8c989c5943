"""Boards of two by two places with handwritten digits on some: which digits there are, and their sum and number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List, Value

from compressor.models.builtin import digits

#: Pixels along a board's side.
SIDE = 16
#: The share of places that hold a digit.
FILLED = 0.6


def save_boards(folder: Path, column: str, samples: dict[str, int]) -> None:
    """Write `{split}.parquet` of images with one column, "labels" (digits on the board) or "values" (sum, number).

    Boards of the split "test" are of scikit-learn's digits that are kept for tests.
    """
    folder.mkdir(parents=True)
    kind: Any = List(Value("string")) if column == "labels" else List(Value("float32"))
    for number, (split, count) in enumerate(samples.items()):
        pictures, names = digits("test" if split == "test" else "train")
        draw = np.random.default_rng(number)
        boards = np.zeros((count, 2, 2, SIDE // 2, SIDE // 2), np.uint8)
        filled = draw.random((count, 2, 2)) < FILLED
        chosen = draw.integers(0, len(pictures), (count, 2, 2))
        boards[filled] = pictures[chosen[filled]]
        rows = []
        for held, which in zip(filled, chosen, strict=True):
            found = names[which[held]]
            present: list[Any] = sorted({str(digit) for digit in found})
            rows.append(present if column == "labels" else [found.sum() / 10, len(found)])
        images = boards.transpose(0, 1, 3, 2, 4).reshape(count, SIDE, SIDE)
        features = Features({"image": Image(), column: kind})
        dataset = Dataset.from_dict({"image": list(images), column: rows}, features=features)
        dataset.to_parquet(folder / f"{split}.parquet")
