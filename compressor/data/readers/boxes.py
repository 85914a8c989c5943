"""Images with the boxes and classes of what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image as Pillow
from torch import Tensor

from compressor.data.readers.images import ImageReader
from compressor.data.samples import ReadingOptions, Sample
from compressor.data.split import Split
from compressor.errors import UserError
from compressor.models.configs.reading import model_class
from compressor.models.signature import readable_inputs
from compressor.models.tasks.boxes import BOX, EMPTY

#: Pixels by which a box may be larger than its image.
_SLACK = 1.0


class BoxReader(ImageReader):
    """Reads `pixel_values` [C, H, W], and `pixel_mask` [H, W] if the model reads it.

    With labels also `labels` [M, 5] float32: class number, then centre, width and height in shares of the image's
    sides; an image that shows nothing has one row of class `EMPTY`.
    """

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        super().__init__(split, options)
        config = None if options.spec is None else options.spec.config
        self._masked = config is not None and "pixel_mask" in readable_inputs(model_class(config))
        self._objects = None
        if options.labels and split.label is not None:
            self._objects = split.dataset.select_columns([split.label])
        self._shape: tuple[int, ...] | None = None

    def _preprocess(self, images: list[Pillow.Image], rows: Sequence[int]) -> list[Sample]:
        # One by one: images of a batch are padded to the largest, and boxes with them.
        samples: list[Sample] = []
        for image, row in zip(images, rows, strict=True):
            samples += super()._preprocess([image], [row])
        return samples

    def _arguments(self, images: list[Pillow.Image], rows: Sequence[int]) -> dict[str, Any]:
        if self._objects is None:
            return {}
        ((image,), (row,)) = images, rows
        objects = [self._annotation(each, image, row) for each in self._objects[row][self.split.label]]
        return {"annotations": [{"image_id": row, "annotations": objects}]}

    def _annotation(self, stored: list[float], image: Pillow.Image, row: int) -> dict[str, Any]:
        """An object as COCO has it."""
        number, left, top, width, height = stored
        if left + width > image.width + _SLACK or top + height > image.height + _SLACK or min(width, height) < 0:
            raise UserError(
                f"a box of sample {row} of {self.split.name} leaves its image of {image.width}×{image.height} pixels: "
                f"{stored[1:]} is not left, top, width and height in pixels"
            )
        box = [left, top, width, height]
        return {"bbox": box, "category_id": int(number), "area": width * height, "iscrowd": 0}

    def _samples_of(self, batch: Mapping[str, Any], rows: Sequence[int]) -> list[Sample]:
        samples = super()._samples_of(batch, rows)
        for index, sample in enumerate(samples):
            if self._masked:
                mask = batch.get("pixel_mask")
                pixels = sample["pixel_values"]
                sample["pixel_mask"] = torch.ones(pixels.shape[1:], dtype=torch.long) if mask is None else mask[index]
            if self._objects is not None:
                sample["labels"] = _labels(batch["labels"][index])
        return samples

    def _check_shapes(self, pixels: list[Tensor]) -> None:
        """Images of several sizes are padded to the largest, which a model needs a mask for."""
        for shape in (tuple(image.shape) for image in pixels):
            self._shape = self._shape or shape
            if shape != self._shape and not self._masked:
                first, other = ("×".join(map(str, each[1:])) for each in (self._shape, shape))
                raise UserError(
                    f"the preprocessor makes images of {self.split.name} of several sizes ({first}, {other}), and this "
                    'model has no mask for padding: set size to {"height": …, "width": …} in preprocessor_config.json'
                )


def _labels(target: Mapping[str, Tensor]) -> Tensor:
    """[M, 5] of what the preprocessor made of an image's objects."""
    classes = target["class_labels"].float()
    if not len(classes):
        return torch.tensor([[EMPTY, *[0.0] * BOX]])
    return torch.cat([classes[:, None], target["boxes"].float()], -1)
