"""One split of a dataset, with its columns of inputs and labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset


@dataclass(frozen=True)
class Split:
    """Samples and the names of their columns.

    Attributes:
        dataset: the samples.
        image: column of images, with the feature `datasets.Image`; None for text.
        label: column of class numbers, one or a list a sample; None if the samples have no labels.
        text: columns of text, one or a pair, or one of lists of words; empty for images and blocks.
        name: source and split, for messages.
        target: column of the target text of encoder–decoders.
        lines: whether the samples are consecutive lines of one text.
        blocks: whether the samples are blocks of tokens (`compressor.data.packing`).
    """

    dataset: Dataset
    image: str | None
    label: str | None
    text: tuple[str, ...]
    name: str
    target: str | None = None
    lines: bool = False
    blocks: bool = False

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, int64 [N]; None if there are none."""
        return None if self.label is None else np.asarray(column(self.dataset, self.label), dtype=np.int64)

    def take(self, n: int, seed: int | None = None) -> Split:
        """The first `n` samples, or `n` drawn at random without replacement; all if there are fewer.

        Args:
            n: how many.
            seed: of the draw; None takes the first.
        """
        if seed is None:
            return self if n >= len(self) else self.select(np.arange(n))
        return self.select(np.random.default_rng(seed).permutation(len(self))[:n])

    def select(self, rows: np.ndarray) -> Split:
        """The samples of the given rows, in that order."""
        return replace(self, dataset=self.dataset.select(rows))


def column(dataset: Dataset, name: str) -> list[Any]:
    """The values of one column as Python objects, without reading the others."""
    return dataset.select_columns([name]).with_format("arrow")[:][name].to_pylist()
