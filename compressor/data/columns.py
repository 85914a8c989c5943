"""Which column of a dataset is the image, which the label and which the text."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
from datasets import ClassLabel, Dataset, Image, Value

from compressor.data.files import IMAGE_SUFFIXES
from compressor.data.quiet import quiet, reason
from compressor.data.split import column
from compressor.errors import UserError

_IMAGES = ("image", "img", "images", "pixels", "pixel", "picture", "photo")
_PATHS = ("path", "file", "file_name", "filename", "image_path", "image_file", "filepath")
_LABELS = ("label", "labels", "fine_label", "target", "class", "y")
_TEXTS = ("text", "sentence", "content", "review")
_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence"), ("question", "passage"))


def find_image(dataset: Dataset, option: str | None, where: str) -> str | None:
    """The image column: the option, else the only one with an Image feature, else one whose name and content fit.

    Raises:
        UserError: the option names no column, or several columns are images.
    """
    if option is not None:
        return _named(dataset, option, "image", where)
    found = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    if not found:
        found = [name for name in dataset.column_names if name.lower() in (*_IMAGES, *_PATHS) and _fits(dataset, name)]
    return _only(dataset, found, _IMAGES, "image", where)


def find_label(dataset: Dataset, option: str | None, classes: int | None, where: str) -> str | None:
    """The label column: the option, else the ClassLabel that fits the number of classes, else one named like a label.

    Raises:
        UserError: the option names no column, or several columns are labels.
    """
    if option is not None:
        return _named(dataset, option, "label", where)
    found = [name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    fitting = [name for name in found if dataset.features[name].num_classes == classes]
    found = fitting or found or [name for name in dataset.column_names if name.lower() in _LABELS]
    return _only(dataset, found, _LABELS, "label", where)


def find_text(dataset: Dataset, label: str | None, where: str) -> tuple[str, ...]:
    """The text columns: a known pair, else the one named like text, else the only column of strings; () if none.

    Raises:
        UserError: several columns could be it.
    """
    strings = [
        name
        for name, feature in dataset.features.items()
        if name != label and isinstance(feature, Value) and feature.dtype in ("string", "large_string")
    ]
    for pair in _PAIRS:
        if set(pair) <= set(strings):
            return pair
    found = _only(dataset, strings, _TEXTS, "text", where)
    return () if found is None else (found,)


def as_images(dataset: Dataset, name: str, base: Path | None, where: str) -> Dataset:
    """The dataset with its image column as `datasets.Image`; paths are taken relative to `base`.

    Raises:
        UserError: the column holds nothing that can be an image.
    """
    feature = dataset.features[name]
    if isinstance(feature, Image):
        return dataset
    try:
        with quiet():
            if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
                places = [None if path is None else str((base or Path()) / path) for path in column(dataset, name)]
                if len(dataset.column_names) == 1:  # without columns a dataset has no rows either
                    dataset = Dataset.from_dict({name: places})
                else:
                    dataset = dataset.remove_columns(name).add_column(name, pa.array(places, pa.string()))
            return dataset.cast_column(name, Image())
    except (datasets.exceptions.DatasetsError, pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(f"column '{name}' of {where} holds no images ({reason(error)}): {_list(dataset)}") from error


def _fits(dataset: Dataset, name: str) -> bool:
    feature = dataset.features[name]
    if isinstance(feature, dict):
        return "bytes" in feature
    if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
        first = next((path for path in dataset[:1][name] if path), "")
        return Path(first).suffix.lower() in IMAGE_SUFFIXES
    is_number = isinstance(feature, Value) and feature.dtype not in ("binary", "large_binary")
    return name.lower() in _IMAGES and not is_number


def _named(dataset: Dataset, option: str, what: str, where: str) -> str:
    if option not in dataset.column_names:
        raise UserError(f"{where} has no {what} column '{option}': {_list(dataset)}")
    return option


def _only(dataset: Dataset, found: list[str], preferred: tuple[str, ...], what: str, where: str) -> str | None:
    if len(found) > 1:
        best = [name for name in found if name.lower() in preferred]
        if len(best) != 1:
            several = " and ".join(f"'{name}'" for name in best or found)
            raise UserError(f"{where} has several {what} columns, {several}: say which ({_list(dataset)})")
        found = best
    return found[0] if found else None


def _list(dataset: Dataset) -> str:
    return f"its columns are {', '.join(dataset.column_names)}"
