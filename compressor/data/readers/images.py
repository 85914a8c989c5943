"""Images as pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Image
from PIL import Image as Pillow
from torch import Tensor

from compressor.data.images.decode import LARGE_PIXELS, decode
from compressor.data.samples import ReadingOptions, Sample
from compressor.data.split import Split
from compressor.errors import UserError
from compressor.models.inputs import size_pair
from compressor.utils.logging import root_cause


class ImageReader:
    """Reads `pixel_values` [C, H, W] float32, with labels also `labels` [].

    The spec, if any, gives the expected channels and size.
    """

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        self.split = split
        self._processor = options.processor
        self._config = None if options.spec is None else options.spec.config
        self._labels = torch.from_numpy(split.labels) if options.labels and split.labels is not None else None
        # Not decoded by `datasets`, so that messages can name a broken image.
        self._samples = split.dataset.select_columns([split.image]).cast_column(split.image, Image(decode=False))

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        """Decode and preprocess images.

        Raises:
            UserError: names a broken or unfit image.
        """
        samples = self._processed(self._samples[list(indices)][self.split.image], indices)
        if self._labels is not None:
            for sample, index in zip(samples, indices, strict=True):
                sample["labels"] = self._labels[index]
        return samples

    def _arguments(self, images: list[Pillow.Image], rows: Sequence[int]) -> dict[str, Any]:
        """What the preprocessor reads beside images, a list for each argument."""
        return {}

    def _processed(self, stored: list[dict | None], rows: Sequence[int]) -> list[Sample]:
        mode = "L" if self._channels() == 1 else "RGB"
        samples: list[Sample] = []
        waiting: list[Pillow.Image] = []
        for value, row in zip(stored, rows, strict=True):
            image = self._decode(value, row, mode)
            # Photographs are large: memory holds only a few.
            if waiting and sum(item.width * item.height for item in [*waiting, image]) > LARGE_PIXELS:
                samples += self._preprocess(waiting, rows[len(samples) : len(samples) + len(waiting)])
                waiting = []
            waiting.append(image)
        samples += self._preprocess(waiting, rows[len(samples) :])
        self._check_shapes([sample["pixel_values"] for sample in samples])
        return samples

    def _check_shapes(self, pixels: list[Tensor]) -> None:
        shapes = {tuple(image.shape) for image in pixels}
        if len(shapes) > 1:
            raise UserError(f"the preprocessor makes images of {self.split.name} of several sizes: {sorted(shapes)}")
        (shape,) = shapes
        expected = self._expected_shape()
        if expected is not None and shape != expected:
            given, wanted = ("×".join(str(n) for n in size) for size in (shape, expected))
            raise UserError(
                f"images of {self.split.name} are {given} after the preprocessor, but the model reads {wanted}"
            )

    def _preprocess(self, images: list[Pillow.Image], rows: Sequence[int]) -> list[Sample]:
        arguments = self._arguments(images, rows)
        try:
            batch = self._processor(images=images, **arguments, return_tensors="pt")
        except (ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"the preprocessor refuses images of {self.split.name}: {root_cause(error)}") from error
        return self._samples_of(batch, rows)

    def _samples_of(self, batch: Mapping[str, Any], rows: Sequence[int]) -> list[Sample]:
        """The preprocessor's answer, sample by sample."""
        return [{"pixel_values": image} for image in batch["pixel_values"].float()]

    def _decode(self, stored: dict | None, row: int, mode: str) -> Pillow.Image:
        try:
            return decode(stored, mode, self.split.image_bounds)
        # Pillow's plugins raise almost anything on a broken file.
        except Exception as error:
            file = f" ({stored['path']})" if stored and stored.get("path") else ""
            where = f"sample {row}{file} of {self.split.name}"
            raise UserError(f"cannot read the image of {where}: {root_cause(error)}") from error

    def _channels(self) -> int:
        if self._config is not None and isinstance(getattr(self._config, "num_channels", None), int):
            return self._config.num_channels
        mean = getattr(self._processor, "image_mean", None)
        return len(mean) if isinstance(mean, list | tuple) else 3

    def _expected_shape(self) -> tuple[int, int, int] | None:
        size = getattr(self._config, "image_size", None)
        return None if size is None else (self._channels(), *size_pair(size))
