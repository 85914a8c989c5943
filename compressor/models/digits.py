"""scikit-learn's bundled digits and their one split: what the built-in teachers learn and what the data `digits` is."""

from __future__ import annotations

from typing import Literal

import numpy as np

#: Images that no built-in teacher sees in training.
TEST_SAMPLES = 497

CLASSES = tuple(str(digit) for digit in range(10))


def digits(role: Literal["train", "test"]) -> tuple[np.ndarray, np.ndarray]:
    """One side of the stratified split, always the same one.

    Returns:
        Grey images, uint8 [N, 8, 8], and labels, int64 [N], in a shuffled order: 1,300 to train on and 497 to test on.
    """
    # scikit-learn takes a second to import, and only this function needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    # The pixels count 0..16 dots.
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    train, test = train_test_split(np.arange(len(labels)), test_size=TEST_SAMPLES, random_state=0, stratify=labels)
    rows = train if role == "train" else test
    return images[rows], labels[rows].astype(np.int64)
