"""One split of a dataset, and which of its columns are what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset


@dataclass(frozen=True)
class Split:
    """Samples with their columns named."""

    dataset: Dataset
    #: Column of images, with the feature `datasets.Image`; None for text.
    image: str | None
    #: Column of labels as integers of the model, one a sample or a list of them; None if the samples have no labels.
    label: str | None
    #: Columns of text, one or a pair, or one column of lists of words; empty for images and for blocks.
    text: tuple[str, ...]
    #: Source and split, for messages.
    name: str
    #: Column of the text that is to be written, for encoder–decoders.
    target: str | None = None
    #: Whether the samples are consecutive lines of one text.
    lines: bool = False
    #: Whether the samples are blocks of tokens (`compressor.data.packing`).
    blocks: bool = False

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, int64 [N]; None if there are none."""
        return None if self.label is None else np.asarray(column(self.dataset, self.label), dtype=np.int64)

    def take(self, n: int, seed: int | None = None) -> Split:
        """The first `n` samples, or `n` drawn at random and without repetition; all of them if there are fewer.

        Args:
            n: how many.
            seed: seed of the draw; None takes the first.
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
