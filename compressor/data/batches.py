"""Batches of model inputs: preprocessed, in a fixed order, as often as wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Image
from PIL import Image as Pillow
from torch import Tensor
from transformers import PretrainedConfig

from compressor.data.quiet import reason
from compressor.data.split import Split
from compressor.errors import UserError

#: Longest text, in tokens, of a tokenizer that names no limit of its own.
MAX_TOKENS = 512


class Batches:
    """A split as batches of model inputs, in its own order; iterate as often as you like.

    Each batch is a dict: `pixel_values` [B, C, H, W] float32, or what the tokenizer makes (`input_ids` [B, T] …);
    with `labels` also `labels` [B] int64.  Images are decoded batch by batch.  Preprocessed batches are kept in
    memory if all of them together fit into `cache_bytes`, so that later passes cost nothing.

    Args:
        split: the samples.
        processor: the teacher's own image processor or tokenizer.
        batch_size: samples per batch; the last one may be smaller.
        labels: whether batches carry labels.
        config: the model's config, if images are to be checked against its channels and image size.
        cache_bytes: memory that preprocessed batches may take.

    Raises:
        UserError: the split has no labels but they are wanted, or the processor is missing or of the wrong kind.
    """

    def __init__(
        self,
        split: Split,
        processor: Any,
        batch_size: int,
        *,
        labels: bool,
        config: PretrainedConfig | None = None,
        cache_bytes: int = 1 << 30,
    ) -> None:
        if processor is None:
            kind = "preprocessor_config.json" if split.image else "tokenizer"
            raise UserError(f"the teacher has no {kind}, so {split.name} cannot be turned into its inputs: add one")
        if hasattr(processor, "get_vocab") != (split.image is None):
            have, need = ("images", "text") if split.image else ("text", "images")
            raise UserError(f"{split.name} holds {have}, but the teacher reads {need}")
        if labels and split.label is None:
            raise UserError(f"{split.name} has no labels: set data.label_column, or go without")
        self.split = split
        self.batch_size = batch_size
        self._processor = processor
        self._config = config
        self._cache_bytes = cache_bytes
        self._cache: list[dict[str, Tensor]] = []
        self._labels = None if split.labels is None else torch.from_numpy(split.labels)
        self._with_labels = labels
        # Decoded here rather than by `datasets`, so that a broken image can be named.
        self._samples = split.dataset.select_columns([split.image] if split.image else list(split.text))
        if split.image:
            self._samples = self._samples.cast_column(split.image, Image(decode=False))

    @property
    def num_samples(self) -> int:
        """Samples in all batches together."""
        return len(self.split)

    @property
    def labels(self) -> Tensor | None:
        """Labels of all samples, int64 [N], in the order of the batches; None if the split has none."""
        return self._labels

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches.

        Raises:
            UserError: a sample cannot be decoded or does not fit the model; the line names it.
        """
        for index in range(len(self)):
            start = index * self.batch_size
            if index < len(self._cache):
                batch = dict(self._cache[index])
            else:
                batch = self._load(start, min(start + self.batch_size, self.num_samples))
                if index == len(self._cache) and self._fits(batch):
                    self._cache.append(dict(batch))
            if self._with_labels and self._labels is not None:
                batch["labels"] = self._labels[start : start + self.batch_size]
            yield batch

    def _fits(self, batch: dict[str, Tensor]) -> bool:
        size = sum(tensor.nbytes for tensor in batch.values())
        return size * len(self) <= self._cache_bytes

    def _load(self, start: int, stop: int) -> dict[str, Tensor]:
        rows = self._samples[start:stop]
        return self._pixels(rows[self.split.image], start) if self.split.image else self._tokens(rows)

    def _pixels(self, stored: list[dict | None], start: int) -> dict[str, Tensor]:
        mode = "L" if self._channels() == 1 else "RGB"
        images = [self._decode(value, start + offset, mode) for offset, value in enumerate(stored)]
        try:
            pixels = self._processor(images=images, return_tensors="pt")["pixel_values"].float()
        except (ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"the preprocessor refuses images of {self.split.name}: {reason(error)}") from error
        expected = self._expected_shape()
        if expected is not None and tuple(pixels.shape[1:]) != expected:
            given, wanted = ("×".join(str(n) for n in shape) for shape in (pixels.shape[1:], expected))
            raise UserError(
                f"images of {self.split.name} are {given} after the preprocessor, but the model reads {wanted}"
            )
        return {"pixel_values": pixels}

    def _decode(self, stored: dict | None, row: int, mode: str) -> Pillow.Image:
        try:
            if stored is None:
                raise ValueError("there is none")
            image = Image().decode_example(stored)
            return image if image.mode == mode else image.convert(mode)
        # Pillow's plugins raise almost anything at a broken file.
        except Exception as error:
            file = f" ({stored['path']})" if stored and stored.get("path") else ""
            where = f"sample {row}{file} of {self.split.name}"
            raise UserError(f"cannot read the image of {where}: {reason(error)}") from error

    def _channels(self) -> int:
        if self._config is not None and isinstance(getattr(self._config, "num_channels", None), int):
            return self._config.num_channels
        mean = getattr(self._processor, "image_mean", None)
        return len(mean) if isinstance(mean, list | tuple) else 3

    def _expected_shape(self) -> tuple[int, int, int] | None:
        size = getattr(self._config, "image_size", None)
        if size is None:
            return None
        height, width = (size, size) if isinstance(size, int) else size
        return self._channels(), height, width

    def _tokens(self, rows: dict[str, list]) -> dict[str, Tensor]:
        texts = [[str(text or "") for text in rows[name]] for name in self.split.text]
        limit = min(self._processor.model_max_length, MAX_TOKENS)
        try:
            encoded = self._processor(*texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        except ValueError as error:
            raise UserError(f"the teacher's tokenizer refuses {self.split.name}: {reason(error)}") from error
        return dict(encoded)
