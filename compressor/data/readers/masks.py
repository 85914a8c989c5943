"""Images with masks, which have a class number for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Image
from PIL import Image as Pillow
from torch import Tensor

from compressor.data.images.decode import decode_numbers
from compressor.data.readers.images import ImageReader
from compressor.data.samples import ReadingOptions, Sample
from compressor.data.split import Split
from compressor.errors import UserError
from compressor.models.tasks.task import IGNORED
from compressor.utils.logging import root_cause

#: The number of pixels without a class, in masks and for preprocessors of transformers.
NO_CLASS = 255


class MaskReader(ImageReader):
    """Reads `pixel_values` [C, H, W], with labels also `labels` [H, W] int64, -100 where a pixel has no class.

    The preprocessor resizes masks as images, by the nearest pixel, and subtracts 1 if it has `do_reduce_labels`.
    """

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        super().__init__(split, options)
        self._masks = None
        if options.labels and split.label is not None:
            self._masks = split.dataset.select_columns([split.label]).cast_column(split.label, Image(decode=False))
        config = None if options.spec is None else options.spec.config
        self._classes = None if config is None else len(config.id2label or {})
        self._no_class = int(getattr(config, "semantic_loss_ignore_index", NO_CLASS))

    def _arguments(self, images: list[Pillow.Image], rows: Sequence[int]) -> dict[str, Any]:
        if self._masks is None:
            return {}
        stored = self._masks[list(rows)][self.split.label]
        return {"segmentation_maps": [self._mask(*each) for each in zip(stored, images, rows, strict=True)]}

    def _mask(self, stored: dict | None, image: Pillow.Image, row: int) -> np.ndarray:
        """Class numbers [H, W] of one image."""
        where = f"the mask of sample {row} of {self.split.name}"
        try:
            mask = decode_numbers(stored)
        # Pillow's plugins raise almost anything on a broken file.
        except Exception as error:
            raise UserError(f"cannot read {where}: {root_cause(error)}") from error
        if mask.shape != (image.height, image.width):
            have, want = f"{mask.shape[1]}×{mask.shape[0]}", f"{image.width}×{image.height}"
            raise UserError(f"{where} has {have} pixels, and its image has {want}")
        return mask

    def _samples_of(self, batch: Mapping[str, Any], rows: Sequence[int]) -> list[Sample]:
        samples = super()._samples_of(batch, rows)
        if self._masks is not None:
            for sample, mask, row in zip(samples, batch["labels"], rows, strict=True):
                sample["labels"] = self._classes_of(torch.as_tensor(mask).long(), row)
        return samples

    def _classes_of(self, mask: Tensor, row: int) -> Tensor:
        known = (mask != self._no_class) & (mask != NO_CLASS)
        if self._classes is not None and known.any() and int(mask[known].max()) >= self._classes:
            raise UserError(
                f"the mask of sample {row} of {self.split.name} has class {int(mask[known].max())}, and the model has "
                f"classes 0 to {self._classes - 1}; {NO_CLASS} is no class"
            )
        return mask.where(known, IGNORED)
