"""Samples of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from compressor.data.batches import Batches, Samples, packed
from compressor.data.sources import Split, open_split
from compressor.distillation.lr_search import validation_rows
from compressor.export.formats import EXPORT_FORMATS
from compressor.fusion.mixture import chooses_mixture
from compressor.models.inputs import without_labels
from compressor.models.teacher import ModelSpec
from compressor.recipe import Recipe

#: Memory for preprocessed samples of training, and as much for evaluation.
CACHE_BYTES = 1 << 28
#: Seed of tokens masked for evaluation: fixed, so that runs compare.
EVALUATION_SEED = 0


@dataclass(frozen=True)
class RunData:
    """Samples for calibration, training and evaluation.

    Attributes:
        calibration: unlabelled dicts of model inputs [B, ...], in memory.
        train: preprocessed on access; None if unusable.
        evaluation: with labels if known; None if unusable.
        splits: those that they are read from.
        calibration_classes: labels of the calibration samples; None if not known, or more than one a sample.
        labelled: `calibration` with labels if known, to choose the ensemble's mixture by.
        remarks: lines on what was fitted to them.
    """

    calibration: tuple[dict[str, Tensor], ...]
    train: Samples | None
    evaluation: Batches | None
    splits: tuple[Split, ...] = ()
    calibration_classes: frozenset[int] | None = None
    labelled: tuple[dict[str, Tensor], ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """Lines on how the samples were read, as far as they were, and used."""
        return list(dict.fromkeys((*(note for split in self.splits for note in split.notes), *self.remarks)))


def open_data(recipe: Recipe, processor: Any, spec: ModelSpec) -> RunData:
    """Open all samples, and read those for calibration, so that faults appear early.

    Raises:
        UserError: unreadable or unfit data.
    """
    train = _open_train(recipe, processor, spec)
    labelled = open_calibration(recipe, train, processor, spec)
    calibration = tuple(without_labels(batch) for batch in labelled)
    if not spec.task.metrics:
        return RunData(calibration, None, None, (train,))
    evaluation = open_evaluation(recipe, processor, spec)
    training, splits = _training(recipe, train, processor, spec), (train, evaluation.split)
    classes = _classes(_drawn(recipe, train), spec) if calibration else None
    return RunData(calibration, training, evaluation, splits, classes, labelled)


def open_training(recipe: Recipe, processor: Any, spec: ModelSpec) -> Samples:
    """Open the training samples alone.

    Raises:
        UserError: see `open_data`.
    """
    return _training(recipe, _open_train(recipe, processor, spec), processor, spec)


def open_calibration(recipe: Recipe, train: Split, processor: Any, spec: ModelSpec) -> tuple[dict[str, Tensor], ...]:
    """Batches drawn with the run's seed; labelled where labels choose the ensemble's mixture."""
    chooses = chooses_mixture(len(recipe.teachers), recipe.fusion)
    # A given student is not fused, but int8 may need samples, and float16 measures them.
    formats = [EXPORT_FORMATS.get(name) for name in recipe.export.wanted]
    measured = any(each.half or each.calibrated(spec.config) for each in formats)
    unlike = recipe.fusion.classes != "same"
    if recipe.student is not None and not chooses and not measured and not unlike:
        return ()
    batches = Batches(
        _drawn(recipe, train),
        processor,
        recipe.calibration.batch_size,
        labels=chooses and spec.task.columns and train.label is not None,
        spec=spec,
        cache_bytes=0,
        max_length=recipe.data.max_length,
        seed=recipe.seed,
    )
    return tuple(batches)


def _drawn(recipe: Recipe, train: Split) -> Split:
    """The calibration samples, without those that a finetune chooses by, on which a fusion would be at its best."""
    if recipe.finetune.enabled and recipe.finetune.keeps_out and len(train) > 1:
        rows, _ = validation_rows(len(train), recipe.finetune.validation, recipe.seed)
        train = train.select(np.sort(rows))
    return train.take(recipe.calibration.samples, seed=recipe.seed)


def _classes(split: Split, spec: ModelSpec) -> frozenset[int] | None:
    """Known labels of a split, one a sample."""
    labels = split.labels if spec.task.one_class else None
    return None if labels is None else frozenset(int(label) for label in labels if label >= 0) or None


def open_evaluation(recipe: Recipe, processor: Any, spec: ModelSpec) -> Batches:
    """Open the evaluation samples.

    Raises:
        UserError: see `open_data`.
    """
    limit = recipe.evaluation.samples
    split = packed(_open(recipe, "eval", spec), processor, spec, recipe.data.max_length, limit)
    if limit is not None:
        split = split.take(limit)
    return Batches(
        split,
        processor,
        recipe.evaluation.batch_size,
        labels=split.label is not None or not spec.task.columns,
        spec=spec,
        cache_bytes=CACHE_BYTES,
        max_length=recipe.data.max_length,
        seed=EVALUATION_SEED,
    )


def _open_train(recipe: Recipe, processor: Any, spec: ModelSpec) -> Split:
    return packed(_open(recipe, "train", spec), processor, spec, recipe.data.max_length)


def _training(recipe: Recipe, train: Split, processor: Any, spec: ModelSpec) -> Samples:
    return Samples(
        train,
        processor,
        spec,
        labels=recipe.finetune.enabled and recipe.finetune.label_weight > 0,
        cache_bytes=CACHE_BYTES,
        max_length=recipe.data.max_length,
        seed=recipe.seed,
    )


def _open(recipe: Recipe, role: Literal["train", "eval"], spec: ModelSpec) -> Split:
    return open_split(recipe.data, role, id2label=spec.labels, task=spec.task, reads=spec.reads)
