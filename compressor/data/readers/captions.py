"""Images with texts: captions, or prompts that name a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Value
from PIL import Image as Pillow
from torch import Tensor

from compressor.data.columns.by_name import find_image, find_label, list_columns
from compressor.data.columns.by_task import ColumnRequest
from compressor.data.readers.images import ImageReader
from compressor.data.samples import ReadingOptions, Sample
from compressor.data.split import Split, column
from compressor.errors import UserError

#: Names of columns of captions, best first.
CAPTIONS = ("caption", "captions", "text", "sentence", "sentences", "description", "title", "prompt")
#: The text of an image of which only the class is known, as CLIP was first used.
PROMPT = "a photo of a {}."


def find_captioned(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """An image and its caption, or its class, of whose name a prompt is made.

    Raises:
        UserError: no image, no text, or ambiguous.
    """
    options = request.options
    image = find_image(dataset, options.image_column, where)
    if image is None:
        raise UserError(f"{where} has no image column (data.image_column, --image-column): {list_columns(dataset)}")
    text = options.text_column[0] if options.text_column else None
    if text is not None and text not in dataset.column_names:
        raise UserError(f"{where} has no text column '{text}': {list_columns(dataset)}")
    named = {name.lower(): name for name in dataset.column_names if name != image}
    text = text or next((named[name] for name in CAPTIONS if name in named), None)
    if text is not None:
        return Split(dataset, image, None, (text,), where)
    label = find_label(dataset, options.label_column, None, where)
    feature = None if label is None else dataset.features[label]
    if label is None or not (isinstance(feature, ClassLabel) or getattr(feature, "dtype", "") in _STRINGS):
        raise UserError(
            f"{where} has neither captions nor names of classes: name a column of text with data.text_column "
            f"(--text-column); {list_columns(dataset)}"
        )
    names = feature.int2str(column(dataset, label)) if isinstance(feature, ClassLabel) else column(dataset, label)
    prompts = [(options.prompt or PROMPT).format(str(name).replace("_", " ")) for name in names]
    dataset = dataset.remove_columns([name for name in dataset.column_names if name != image])
    return Split(dataset.add_column("prompt", prompts, feature=Value("string")), image, None, ("prompt",), where)


_STRINGS = ("string", "large_string")


class CaptionReader(ImageReader):
    """Reads `pixel_values` [C, H, W], `input_ids` and `attention_mask` [T] of one length.

    With labels also `labels` []: the number of the text among the different ones of the split.
    """

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        super().__init__(split, options)
        if getattr(self._processor, "tokenizer", None) is None:
            raise UserError(
                f"{split.name} holds images and texts, and the teacher's preprocessor reads no text: add its tokenizer"
            )
        self._texts = [self._text(value, row) for row, value in enumerate(column(split.dataset, split.text[0]))]
        self._numbers = None
        if options.labels:
            _, owners = np.unique(self._texts, return_inverse=True)
            self._numbers = torch.from_numpy(owners.astype(np.int64))
        limit = None if options.spec is None else options.spec.max_length
        self._length = min(filter(None, (options.max_length, limit)), default=None)

    def _text(self, value: Any, row: int) -> str:
        # Of several captions the first.
        value = value[0] if isinstance(value, list) and value else value
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"sample {row} of {self.split.name} has no text in column '{self.split.text[0]}'")
        return value

    def _arguments(self, images: list[Pillow.Image], rows: Sequence[int]) -> dict[str, Any]:
        length = {} if self._length is None else {"max_length": self._length}
        padding = "longest" if self._length is None else "max_length"
        return {"text": [self._texts[row] for row in rows], "padding": padding, "truncation": True, **length}

    def _samples_of(self, batch: Mapping[str, Any], rows: Sequence[int]) -> list[Sample]:
        samples = super()._samples_of(batch, rows)
        ids: Tensor = batch["input_ids"]
        # SigLIP was trained on padding, and its tokenizer makes no mask.
        mask = batch.get("attention_mask")
        for index, (sample, row) in enumerate(zip(samples, rows, strict=True)):
            sample["input_ids"] = ids[index]
            if mask is not None:
                sample["attention_mask"] = mask[index]
            if self._numbers is not None:
                sample["labels"] = self._numbers[row]
        return samples
