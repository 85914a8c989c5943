"""A split and its columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from compressor.data.images.bounds import ImageBounds

#: Column of the row of `Split.whole` that a sample was cut from.
CUT_FROM = "sample"


@dataclass(frozen=True)
class Split:
    """Samples and the names of their columns.

    Attributes:
        image: column of `datasets.Image`.
        label: column of class numbers or lists of them, or of lists of floats.
        text: one or two columns of text, or one of word lists.
        name: source and split, for messages.
        target: column of encoder–decoder targets.
        lines: whether samples are lines of one text.
        blocks: whether samples are blocks of tokens.
        image_bounds: black and white of images whose mode has none.
        domain: column of names of domains.
        audio: column of sounds.
        masks: whether labels are images of class numbers.
        boxes: whether labels are lists of boxes.
        whole: the samples that its own were cut from, by `CUT_FROM`.
    """

    dataset: Dataset
    image: str | None
    label: str | None
    text: tuple[str, ...]
    name: str
    target: str | None = None
    lines: bool = False
    blocks: bool = False
    image_bounds: ImageBounds | None = None
    domain: str | None = None
    audio: str | None = None
    masks: bool = False
    boxes: bool = False
    whole: Split | None = None

    @property
    def holds(self) -> str:
        """Kind of its samples: "image", "audio" or "text"."""
        return "image" if self.image else "audio" if self.audio else "text"

    @property
    def notes(self) -> list[str]:
        """Lines on how samples were read, as far as they were."""
        return self.image_bounds.notes if self.image_bounds else []

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def labels(self) -> np.ndarray | None:
        """All labels: classes int64 [N], labels that hold and values float32 [N, C]; None of masks and boxes."""
        if self.label is None or self.masks or self.boxes:
            return None
        values = column(self.dataset, self.label)
        floats = bool(values) and isinstance(values[0], list) and not any(isinstance(v, int) for v in values[0])
        return np.asarray(values, dtype=np.float32 if floats else np.int64)

    def take(self, n: int, seed: int | None = None) -> Split:
        """At most `n` samples: the first, or drawn without replacement by `seed`."""
        if seed is None:
            return self if n >= len(self) else self.select(np.arange(n))
        return self.select(np.random.default_rng(seed).permutation(len(self))[:n])

    def select(self, rows: np.ndarray) -> Split:
        """The given rows, in order."""
        return replace(self, dataset=self.dataset.select(rows))


def column(dataset: Dataset, name: str) -> list[Any]:
    """One column, without reading the others."""
    return dataset.select_columns([name]).with_format("arrow")[:][name].to_pylist()
