"""Which column of a dataset is the image, which the label, which the text, and which the text to be written."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
from datasets import ClassLabel, Dataset, Image, LargeList, List, Value

from compressor.data.files import IMAGE_SUFFIXES
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


def find_text(dataset: Dataset, option: tuple[str, ...] | None, label: str | None, where: str) -> tuple[str, ...]:
    """The text columns: the option, else a known pair, else the one named like text, else the only column of strings.

    Returns:
        One or two names; () if there is no text.

    Raises:
        UserError: the option names no column, or several columns could be it.
    """
    if option is not None:
        return tuple(_named(dataset, name, "text", where) for name in option)
    strings = [name for name in _strings(dataset) if name != label]
    for pair in _PAIRS:
        if set(pair) <= set(strings):
            return pair
    found = _only(dataset, strings, _TEXTS, "text", where)
    return () if found is None else (found,)


def find_target(
    dataset: Dataset, text: tuple[str, ...] | None, target: str | None, where: str
) -> tuple[tuple[str, ...], str]:
    """The columns of source and target texts: the options, else a pair of usual names, else what the options leave.

    Raises:
        UserError: an option names no column, or source and target cannot be told.
    """
    strings = _strings(dataset)
    source = None if text is None else _named(dataset, text[0], "text", where)
    written = None if target is None else _named(dataset, target, "target", where)
    if source is None and written is None:
        source, written = next((pair for pair in _TARGETS if set(pair) <= set(strings)), (None, None))
    rest = [name for name in strings if name not in (source, written)]
    if (source is None) != (written is None) and len(rest) == 1:
        source, written = source or rest[0], written or rest[0]
    if source is None or written is None:
        raise UserError(
            f"cannot tell source and target of {where}: name them with data.text_column and data.target_column "
            f"(--text-column, --target-column); {_list(dataset)}"
        )
    return (source,), written


def find_words(
    dataset: Dataset, text: tuple[str, ...] | None, tags: str | None, classes: int | None, where: str
) -> tuple[str, str | None]:
    """The columns of words and of their tags (None if there are none): the options, else found by feature and name.

    Raises:
        UserError: an option names no column, or the words or tags cannot be told.
    """
    lists = {name: inner for name, kind in dataset.features.items() if (inner := _inner(kind)) is not None}
    words = [name for name, inner in lists.items() if _is_string(inner)]
    if text is not None:
        found: str | None = _named(dataset, text[0], "text", where)
    else:
        likely = [name for name in words if name.lower() in _WORDS]
        found = _only(dataset, likely or [name for name in words if name != tags], _WORDS, "word", where)
    if found is None or found not in lists:
        raise UserError(f"{where} has no column of lists of words (data.text_column, --text-column): {_list(dataset)}")
    if tags is not None:
        return found, _named(dataset, tags, "label", where)
    others = {name: inner for name, inner in lists.items() if name != found}
    labels = [name for name, inner in others.items() if isinstance(inner, ClassLabel)]
    fitting = [name for name in labels if getattr(others[name], "num_classes", None) == classes]
    chosen = fitting or labels or [name for name in others if name.lower() in _TAGS]
    return found, _only(dataset, chosen, _TAGS[:1] if len(chosen) > 1 else _TAGS, "label", where)


def _strings(dataset: Dataset) -> list[str]:
    return [name for name, feature in dataset.features.items() if _is_string(feature)]


def _is_string(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _inner(feature: object) -> object | None:
    """What a column of lists holds; None for any other column."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    return feature.feature if isinstance(feature, List | LargeList) else None


def as_images(dataset: Dataset, name: str, base: Path | None, where: str) -> Dataset:
    """The dataset with its image column as `datasets.Image`; paths are taken relative to `base`.

    Raises:
        UserError: the column holds nothing that can be an image.
    """
    feature = dataset.features[name]
    if isinstance(feature, Image):
        return dataset
    try:
        with quiet_datasets():
            if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
                places = [None if path is None else str((base or Path()) / path) for path in column(dataset, name)]
                if len(dataset.column_names) == 1:  # without columns a dataset has no rows either
                    dataset = Dataset.from_dict({name: places})
                else:
                    dataset = dataset.remove_columns(name).add_column(name, pa.array(places, pa.string()))
            return dataset.cast_column(name, Image())
    except (datasets.exceptions.DatasetsError, pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(
            f"column '{name}' of {where} holds no images ({root_cause(error)}): {_list(dataset)}"
        ) from error


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
