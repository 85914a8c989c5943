"""Finding columns by option, feature and name."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Image, LargeList, List, Value
from datasets.table import InMemoryTable

from compressor.data.domains import DOMAIN
from compressor.data.files.folders import IMAGE_SUFFIXES
from compressor.data.images.arrays import encode_array
from compressor.data.split import column
from compressor.errors import UserError
from compressor.utils.logging import quiet_datasets, root_cause

_IMAGES = ("image", "img", "images", "pixels", "pixel", "picture", "photo")
_PATHS = ("path", "file", "file_name", "filename", "image_path", "image_file", "filepath")
_LABELS = ("label", "labels", "fine_label", "target", "class", "y")
_TEXTS = ("text", "sentence", "sentences", "content", "review", "document")
_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "passage"),
)
_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "labels", "ner", "label")
#: Source and target of encoder–decoders, by their usual names.
_TARGETS = (
    ("source", "target"),
    ("src", "tgt"),
    ("input", "output"),
    ("inputs", "targets"),
    ("input", "target"),
    ("article", "highlights"),
    ("document", "summary"),
    ("dialogue", "summary"),
    ("text", "summary"),
    ("question", "answer"),
)


def find_image(dataset: Dataset, option: str | None, where: str) -> str | None:
    """The image column: the option, the only Image feature, or one whose name and content fit.

    Raises:
        UserError: missing or ambiguous.
    """
    if option is not None:
        return named_column(dataset, option, "image", where)
    images = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    if not images:
        images = [name for name in dataset.column_names if name.lower() in (*_IMAGES, *_PATHS) and _fits(dataset, name)]
    return _only(dataset, images, _IMAGES, "image", where)


def find_label(dataset: Dataset, option: str | None, classes: int | None, where: str) -> str | None:
    """The label column: the option, the fitting ClassLabel, or one named like a label.

    Raises:
        UserError: missing or ambiguous.
    """
    if option is not None:
        return named_column(dataset, option, "label", where)
    labels = [name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    fitting = [name for name in labels if dataset.features[name].num_classes == classes]
    candidates = fitting or labels or [name for name in dataset.column_names if name.lower() in _LABELS]
    return _only(dataset, candidates, _LABELS, "label", where)


def find_text(dataset: Dataset, option: tuple[str, ...] | None, label: str | None, where: str) -> tuple[str, ...]:
    """Up to two text columns: the option, a known pair, one named like text, or the only strings.

    Raises:
        UserError: missing or ambiguous.
    """
    if option is not None:
        return tuple(named_column(dataset, name, "text", where) for name in option)
    strings = [name for name in _strings(dataset) if name != label]
    # A column of that name tells what the text is about, unless it is the only text.
    strings = [name for name in strings if name != DOMAIN] or strings
    for pair in _PAIRS:
        if set(pair) <= set(strings):
            return pair
    text = _only(dataset, strings, _TEXTS, "text", where)
    return () if text is None else (text,)


def find_target(
    dataset: Dataset, text: tuple[str, ...] | None, target: str | None, where: str
) -> tuple[tuple[str, ...], str]:
    """Columns of source and target: the options, usual names, or the only one left.

    Raises:
        UserError: missing or ambiguous.
    """
    strings = _strings(dataset)
    source = None if text is None else named_column(dataset, text[0], "text", where)
    target_column = None if target is None else named_column(dataset, target, "target", where)
    if source is None and target_column is None:
        source, target_column = next((pair for pair in _TARGETS if set(pair) <= set(strings)), (None, None))
    rest = [name for name in strings if name not in (source, target_column)]
    if (source is None) != (target_column is None) and len(rest) == 1:
        source, target_column = source or rest[0], target_column or rest[0]
    if source is None or target_column is None:
        raise UserError(
            f"cannot tell source and target of {where}: name them with data.text_column and data.target_column "
            f"(--text-column, --target-column); {list_columns(dataset)}"
        )
    return (source,), target_column


def find_words(
    dataset: Dataset, text: tuple[str, ...] | None, tags: str | None, classes: int | None, where: str
) -> tuple[str, str | None]:
    """Columns of words and of tags, if any.

    Raises:
        UserError: missing or ambiguous.
    """
    lists = {name: inner for name, kind in dataset.features.items() if (inner := _list_item(kind)) is not None}
    words = [name for name, inner in lists.items() if _is_string(inner)]
    if text is not None:
        column_of_words: str | None = named_column(dataset, text[0], "text", where)
    else:
        likely = [name for name in words if name.lower() in _WORDS]
        column_of_words = _only(dataset, likely or [name for name in words if name != tags], _WORDS, "word", where)
    if column_of_words is None or column_of_words not in lists:
        raise UserError(
            f"{where} has no column of lists of words (data.text_column, --text-column): {list_columns(dataset)}"
        )
    if tags is not None:
        return column_of_words, named_column(dataset, tags, "label", where)
    others = {name: inner for name, inner in lists.items() if name != column_of_words}
    labels = [name for name, inner in others.items() if isinstance(inner, ClassLabel)]
    fitting = [name for name in labels if getattr(others[name], "num_classes", None) == classes]
    chosen = fitting or labels or [name for name in others if name.lower() in _TAGS]
    return column_of_words, _only(dataset, chosen, _TAGS[:1] if len(chosen) > 1 else _TAGS, "label", where)


def _strings(dataset: Dataset) -> list[str]:
    return [name for name, feature in dataset.features.items() if _is_string(feature)]


def _is_string(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _list_item(feature: object) -> object | None:
    """Feature of a list's items."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    return feature.feature if isinstance(feature, List | LargeList) else None


def as_images(dataset: Dataset, name: str, base: Path | None, where: str) -> Dataset:
    """The image column as `datasets.Image`; paths are relative to `base`.

    Raises:
        UserError: no images.
    """
    feature = dataset.features[name]
    if isinstance(feature, Image):
        return dataset
    try:
        with quiet_datasets():
            if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
                places = [None if path is None else str((base or Path()) / path) for path in column(dataset, name)]
                dataset = _replaced(dataset, name, pa.array(places, pa.string()))
            elif (kind := _array_type(dataset, name)) is not None:
                arrays = [None if pixels is None else encode_array(pixels, kind) for pixels in column(dataset, name)]
                dataset = _replaced(dataset, name, pa.array(arrays, pa.large_binary()))
            return dataset.cast_column(name, Image())
    except (datasets.exceptions.DatasetsError, pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(
            f"column '{name}' of {where} holds no images ({root_cause(error)}): {list_columns(dataset)}"
        ) from error


def _replaced(dataset: Dataset, name: str, values: pa.Array) -> Dataset:
    if len(dataset.column_names) == 1:  # without columns a dataset has no rows either
        return Dataset(InMemoryTable(pa.table({name: values})))
    return dataset.remove_columns(name).add_column(name, values)


def _array_type(dataset: Dataset, name: str) -> np.dtype | None:
    """Type of the numbers in a column of nested lists; None for other columns."""
    kind = dataset.features.arrow_schema.field(name).type
    if isinstance(kind, pa.ExtensionType):
        kind = kind.storage_type
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return np.dtype(kind.to_pandas_dtype()) if depth in (2, 3) and is_number else None


def _fits(dataset: Dataset, name: str) -> bool:
    feature = dataset.features[name]
    if isinstance(feature, dict):
        return "bytes" in feature
    if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
        first = next((path for path in dataset[:1][name] if path), "")
        return Path(first).suffix.lower() in IMAGE_SUFFIXES
    is_number = isinstance(feature, Value) and feature.dtype not in ("binary", "large_binary")
    return name.lower() in _IMAGES and not is_number


def named_column(dataset: Dataset, option: str, kind: str, where: str) -> str:
    """A column that the user names.

    Raises:
        UserError: it is missing.
    """
    if option not in dataset.column_names:
        raise UserError(f"{where} has no {kind} column '{option}': {list_columns(dataset)}")
    return option


def _only(dataset: Dataset, candidates: list[str], preferred: tuple[str, ...], kind: str, where: str) -> str | None:
    if len(candidates) > 1:
        best = [name for name in candidates if name.lower() in preferred]
        if len(best) != 1:
            several = " and ".join(f"'{name}'" for name in best or candidates)
            raise UserError(f"{where} has several {kind} columns, {several}: say which ({list_columns(dataset)})")
        candidates = best
    return candidates[0] if candidates else None


def list_columns(dataset: Dataset) -> str:
    return f"its columns are {', '.join(dataset.column_names)}"
