"""Images as pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import Image
from PIL import Image as Pillow
from torch import Tensor

from compressor.data.decode import LARGE_PIXELS, decode
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
        pixels = self._pixels(self._samples[list(indices)][self.split.image], indices)
        samples = [{"pixel_values": image} for image in pixels]
        if self._labels is not None:
            for sample, index in zip(samples, indices, strict=True):
                sample["labels"] = self._labels[index]
        return samples

    def _pixels(self, stored: list[dict | None], rows: Sequence[int]) -> Tensor:
        mode = "L" if self._channels() == 1 else "RGB"
        parts: list[Tensor] = []
        waiting: list[Pillow.Image] = []
        for value, row in zip(stored, rows, strict=True):
            image = self._decode(value, row, mode)
            # Photographs are large: memory holds only a few.
            if waiting and sum(item.width * item.height for item in [*waiting, image]) > LARGE_PIXELS:
                parts.append(self._preprocess(waiting))
                waiting = []
            waiting.append(image)
        parts.append(self._preprocess(waiting))
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise UserError(f"the preprocessor makes images of {self.split.name} of several sizes: {sorted(shapes)}")
        pixels = torch.cat(parts) if len(parts) > 1 else parts[0]
        expected = self._expected_shape()
        if expected is not None and tuple(pixels.shape[1:]) != expected:
            given, wanted = ("×".join(str(n) for n in shape) for shape in (pixels.shape[1:], expected))
            raise UserError(
                f"images of {self.split.name} are {given} after the preprocessor, but the model reads {wanted}"
            )
        return pixels

    def _preprocess(self, images: list[Pillow.Image]) -> Tensor:
        try:
            return self._processor(images=images, return_tensors="pt")["pixel_values"].float()
        except (ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"the preprocessor refuses images of {self.split.name}: {root_cause(error)}") from error

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
