"""Labels as the model's class numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from datasets import ClassLabel, Dataset

from compressor.data.split import column
from compressor.errors import UserError


def map_labels(
    dataset: Dataset, name: str, id2label: Mapping[int, str] | None, where: str, *, partial: bool = False
) -> tuple[Dataset, str | None]:
    """Turn the label column into class numbers.

    Names map through `id2label`, ignoring case without an exact match; integers stay. Unnamed labels (LABEL_0 …) go by
    number.

    Args:
        id2label: None keeps integers, and numbers names alphabetically.
        partial: treat partly labelled data as unlabelled.

    Returns:
        Dataset and label column; None if all labels are missing (null or -1).

    Raises:
        UserError: labels missing, out of range, ill-typed or unknown.
    """
    values = column(dataset, name)
    missing = [row for row, value in enumerate(values) if _is_missing(value)]
    if len(missing) == len(values) or set(values) == {-1} or (missing and partial):
        return dataset, None
    if missing:
        raise UserError(f"{len(missing)} of {len(values)} labels of {where} are missing, the first in row {missing[0]}")
    feature = dataset.features[name]
    names = feature.names if isinstance(feature, ClassLabel) else None
    translate = _translator(values, names, id2label)
    table: dict[Any, int] = {}
    for row, value in enumerate(values):
        if value not in table:
            try:
                table[value] = translate(value)
            except ValueError as error:
                raise UserError(f"row {row} of {where}, column '{name}': {error}") from None
    numbers = [table[value] for value in values]
    if numbers == values and all(type(value) is int for value in table):
        return dataset, name
    return dataset.remove_columns(name).add_column(name, numbers), name


def map_tags(dataset: Dataset, name: str, id2label: Mapping[int, str] | None, where: str) -> Dataset:
    """Turn lists of tags into class numbers; -100 stays.

    Raises:
        UserError: as `map_labels`.
    """
    rows = column(dataset, name)
    feature: Any = dataset.features[name]
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    names = inner.names if isinstance(inner, ClassLabel) else None
    if any(not isinstance(tags, list) for tags in rows):
        raise UserError(f"column '{name}' of {where} does not hold a list of labels in every row")
    translate = _translator([tag for tags in rows for tag in tags], names, id2label)
    table: dict[Any, int] = {-100: -100}
    for row, tags in enumerate(rows):
        for tag in tags:
            if tag not in table:
                try:
                    table[tag] = translate(tag)
                except ValueError as error:
                    raise UserError(f"row {row} of {where}, column '{name}': {error}") from None
    return dataset.remove_columns(name).add_column(name, [[table[tag] for tag in tags] for tags in rows])


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _translator(values: list, names: list[str] | None, id2label: Mapping[int, str] | None) -> Callable[[Any], int]:
    """A function from label to class number; its ValueError gives the reason."""
    if id2label is None:
        if any(isinstance(value, str) for value in values):
            id2label = dict(enumerate(sorted({str(value) for value in values})))
        else:
            return _whole
    ids = {str(label): int(index) for index, label in id2label.items()}
    folded = {label.casefold(): index for label, index in ids.items()}
    nameless = all(label in (f"LABEL_{index}", str(index)) for label, index in ids.items())

    def by_number(value: Any) -> int:
        index = _whole(value)
        if not 0 <= index < len(ids):
            raise ValueError(f"label {index} is out of range: the model has classes 0 to {len(ids) - 1}")
        return index

    def by_name(label: str) -> int:
        index = ids.get(label, folded.get(label.casefold()))
        if index is not None:
            return index
        if nameless and re.fullmatch(r"\d+", label):
            return by_number(int(label))
        known = ", ".join(list(ids)[:8]) + (", …" if len(ids) > 8 else "")
        raise ValueError(f"label '{label}' is not one of the model's labels ({known})")

    # If only one side has names, classes can only be matched by number.
    by_position = names is None or (len(names) == len(ids) and (nameless != _are_numbers(names)))

    def translate(value: Any) -> int:
        if isinstance(value, str):
            return by_name(value)
        index = _whole(value)
        if by_position or names is None or not 0 <= index < len(names):
            return by_number(index)
        return by_name(names[index])

    return translate


def _are_numbers(names: list[str]) -> bool:
    return all(re.fullmatch(r"\d+", name) for name in names)


def _whole(value: Any) -> int:
    # Refuses NaN and infinity too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
        raise ValueError(f"label {value!r} is neither a class number nor a name")
    return int(value)
