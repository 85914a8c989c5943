"""The samples of a training in the order in which it sees them, augmented."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from compressor.data.augment import AUGMENTATIONS, MIXING, PIXELS, draw_numbers, mix_images
from compressor.distillation.checks import TrainingSamples
from compressor.distillation.logit_cache import read_samples


class TrainingStream(Dataset[dict[str, Tensor]]):
    """Permutations of all samples, one after the other, for all steps of a run: place 0 is the first sample seen.

    To the Trainer it is one epoch in a fixed order, so every batch is full, and a run that is resumed, or spread over
    processes, sees the same.  How an image is changed depends on the seed and its place alone.

    Args:
        samples: what there is.
        count: how many are seen in all.
        batch_size: of one step; images are mixed within one.
        seed: of the order and of the augmentation.
        augment: the augmentation's name.
    """

    def __init__(
        self, samples: TrainingSamples, count: int, *, batch_size: int, seed: int, augment: str = "none"
    ) -> None:
        self._samples = samples
        self._batch_size = batch_size
        self._seed = seed
        self._change = None if augment == "none" else AUGMENTATIONS.get(augment)
        self._mixes = augment in MIXING
        generator = torch.Generator().manual_seed(seed)
        passes = [
            torch.randperm(len(samples), generator=generator, dtype=torch.int32) for _ in range(0, count, len(samples))
        ]
        self._order = torch.cat(passes)[:count]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Tensor]]:
        """The samples at several places; torch's DataLoader asks for a batch so."""
        if self._change is None:
            return self._read(places)
        partners = [self._partner(place) for place in places] if self._mixes else []
        needed = list(dict.fromkeys([*places, *partners]))
        samples, draws = self._read(needed), draw_numbers(self._seed, needed)
        pixels = self._change(torch.stack([sample[PIXELS] for sample in samples]), draws)
        row = {place: index for index, place in enumerate(needed)}
        if self._mixes:
            pixels = mix_images(
                pixels[: len(places)], pixels[[row[partner] for partner in partners]], draws[: len(places)]
            )
        return [{**samples[row[place]], PIXELS: pixels[row[place]]} for place in places]

    def _read(self, places: Sequence[int]) -> list[dict[str, Tensor]]:
        indices = self._order[list(places)].tolist()
        return read_samples(self._samples, indices)

    def _partner(self, place: int) -> int:
        """The next place of the same batch, the first one's for the last."""
        start = place - place % self._batch_size
        return start + (place - start + 1) % self._batch_size
