"""Augmented samples in training order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from compressor.data.augment import AUGMENTATIONS, MIXING, PIXELS, draw_numbers, mix_images
from compressor.distillation.checks import TrainingSamples
from compressor.distillation.logit_cache import read_samples


class TrainingStream(Dataset[dict[str, Tensor]]):
    """Concatenated permutations of all samples; images are mixed within a batch.

    To the Trainer one epoch in fixed order, so that resumed and distributed runs read the same.
    """

    def __init__(
        self, samples: TrainingSamples, count: int, *, batch_size: int, seed: int, augment: str = "none"
    ) -> None:
        self._samples = samples
        self._batch_size = batch_size
        self._seed = seed
        self._augment = None if augment == "none" else AUGMENTATIONS.get(augment)
        self._mixes = augment in MIXING
        generator = torch.Generator().manual_seed(seed)
        passes = [
            torch.randperm(len(samples), generator=generator, dtype=torch.int32) for _ in range(0, count, len(samples))
        ]
        self._order = torch.cat(passes)[:count]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several samples, for torch's DataLoader."""
        if self._augment is None:
            return self._read(positions)
        partners = [self._partner(position) for position in positions] if self._mixes else []
        needed = list(dict.fromkeys([*positions, *partners]))
        samples, draws = self._read(needed), draw_numbers(self._seed, needed)
        pixels = self._augment(torch.stack([sample[PIXELS] for sample in samples]), draws)
        row = {position: index for index, position in enumerate(needed)}
        if self._mixes:
            pixels = mix_images(
                pixels[: len(positions)], pixels[[row[partner] for partner in partners]], draws[: len(positions)]
            )
        return [{**samples[row[position]], PIXELS: pixels[row[position]]} for position in positions]

    def _read(self, positions: Sequence[int]) -> list[dict[str, Tensor]]:
        indices = self._order[list(positions)].tolist()
        return read_samples(self._samples, indices)

    def _partner(self, position: int) -> int:
        """The next position of the batch, cyclic."""
        start = position - position % self._batch_size
        return start + (position - start + 1) % self._batch_size
