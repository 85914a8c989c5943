"""The samples of a run, by what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PretrainedConfig

from compressor.data.batches import Batches
from compressor.data.sources import Split, open_split
from compressor.recipe import Recipe

#: Memory for preprocessed images that are seen again: once for training, once for evaluation.
CACHE_BYTES = 1 << 28


@dataclass(frozen=True)
class RunData:
    """Where a run's batches come from.

    Attributes:
        calibration: preprocessed, unlabelled, in memory; each {"pixel_values": [B, C, H, W]}.
        train: all training samples, preprocessed when they are asked for.
        evaluation: with labels if the data has them.
    """

    calibration: tuple[dict[str, Tensor], ...]
    train: TrainSamples
    evaluation: Batches


class TrainSamples:
    """Training samples one by one or, faster, a batch of them at once.

    Preprocessed samples are kept for later epochs as far as they fit into `CACHE_BYTES`.

    Args:
        split: the samples.
        processor: the teachers' image processor.
        config: the teachers' config, which images are checked against.
        labels: whether a sample carries its label.
    """

    def __init__(self, split: Split, processor: Any, config: PretrainedConfig, *, labels: bool) -> None:
        self._split, self._processor, self._config, self._labels = split, processor, config, labels
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._room = CACHE_BYTES

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """The samples of a batch, decoded and preprocessed in one call; torch's DataLoader asks for them so."""
        missing = [index for index in dict.fromkeys(indices) if index not in self._kept]
        loaded = dict(zip(missing, self._load(missing), strict=True)) if missing else {}
        found = [self._kept.get(index) or loaded[index] for index in indices]
        for index, sample in loaded.items():
            size = sum(value.nbytes for value in sample.values())
            if size <= self._room:
                self._room -= size
                # A view would keep its whole batch in memory.
                self._kept[index] = {name: value.clone() for name, value in sample.items()}
        return found

    def _load(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        rows = self._split.select(np.asarray(indices))
        batches = Batches(rows, self._processor, len(indices), labels=self._labels, config=self._config, cache_bytes=0)
        batch = next(iter(batches))
        return [{name: values[i] for name, values in batch.items()} for i in range(len(indices))]


def open_data(recipe: Recipe, processor: Any, config: PretrainedConfig) -> RunData:
    """Open what a run reads; the calibration images are decoded here, so broken ones are met before the fusion.

    Raises:
        UserError: the data cannot be read or does not fit the teachers.
    """
    train = open_split(recipe.data, "train", id2label=label_names(config))
    calibration = open_calibration(recipe, train, processor, config)
    evaluation = open_evaluation(recipe, processor, config)
    labels = recipe.finetune.label_weight > 0
    return RunData(calibration, TrainSamples(train, processor, config, labels=labels), evaluation)


def open_calibration(
    recipe: Recipe, train: Split, processor: Any, config: PretrainedConfig
) -> tuple[dict[str, Tensor], ...]:
    """Images drawn from the training split with the run's seed; labels are not looked at."""
    if recipe.student is not None:
        return ()
    drawn = train.take(recipe.calibration.samples, seed=recipe.seed)
    batches = Batches(drawn, processor, recipe.calibration.batch_size, labels=False, config=config, cache_bytes=0)
    return tuple(batches)


def open_evaluation(recipe: Recipe, processor: Any, config: PretrainedConfig) -> Batches:
    """The evaluation samples, with labels if there are any.

    Raises:
        UserError: the data cannot be read or does not fit the model.
    """
    split = open_split(recipe.data, "eval", id2label=label_names(config))
    if recipe.evaluation.samples is not None:
        split = split.take(recipe.evaluation.samples)
    return Batches(
        split,
        processor,
        recipe.evaluation.batch_size,
        labels=split.label is not None,
        config=config,
        cache_bytes=CACHE_BYTES,
    )


def label_names(config: PretrainedConfig) -> dict[int, str]:
    """The classes of a classifier, by their numbers."""
    return {int(index): str(name) for index, name in (config.id2label or {}).items()}
