"""Labels of samples that are no single class: several labels that hold, or values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from compressor.data.columns.by_name import find_label
from compressor.data.columns.labels import is_missing, label_translator
from compressor.data.split import column
from compressor.errors import UserError
from compressor.wording import quote

#: Names of columns of values, best first.
_VALUES = ("label", "labels", "score", "scores", "value", "target", "rating", "y", "similarity", "similarity_score")


def find_label_columns(
    dataset: Dataset, option: str | None, id2label: Mapping[int, str] | None, where: str
) -> tuple[str, ...]:
    """The column of labels that hold, or one 0/1 column for each of the model's labels, in their order.

    Raises:
        UserError: missing or ambiguous.
    """
    if option is None and id2label:
        columns = {name.casefold(): name for name in dataset.column_names}
        wanted = [str(id2label[index]).casefold() for index in sorted(id2label)]
        if all(name in columns for name in wanted):
            return tuple(columns[name] for name in wanted)
    found = find_label(dataset, option, None, where)
    return () if found is None else (found,)


def find_value_columns(dataset: Dataset, option: str | None, outputs: int, where: str) -> tuple[str, ...]:
    """The column of values: the option, one named like a value or label, or the only column of numbers.

    Raises:
        UserError: missing or ambiguous.
    """
    if option is not None:
        if option not in dataset.column_names:
            listed = ", ".join(dataset.column_names)
            raise UserError(f"{where} has no label column '{option}': its columns are {listed}")
        return (option,)
    numbers = [name for name, feature in dataset.features.items() if _holds_numbers(feature, outputs)]
    usual = [name for known in _VALUES for name in numbers if name.casefold() == known]
    if usual or len(numbers) == 1:
        return ((usual or numbers)[0],)
    if numbers:
        listed = " and ".join(f"'{name}'" for name in numbers)
        raise UserError(f"{where} has several columns of numbers, {listed}: name one with --label-column")
    return ()


def map_label_sets(
    dataset: Dataset, names: tuple[str, ...], id2label: Mapping[int, str] | None, where: str
) -> tuple[Dataset, str]:
    """Turn labels into a column of 0.0 and 1.0 for each of the model's labels, [C] float32.

    A row holds class names or numbers of the labels that hold, or 0 or 1 for every label.

    Raises:
        UserError: unknown labels, or rows of another form.
    """
    place = f"{where}, column {' and '.join(repr(name) for name in names)}"
    if len(names) == 1:
        rows = [_as_list(row, index, place) for index, row in enumerate(column(dataset, names[0]))]
    else:
        rows = [list(row) for row in zip(*(column(dataset, name) for name in names), strict=True)]
    count = len(id2label) if id2label is not None else max(map(len, rows), default=0)
    if _are_flags(rows, count):
        return _replaced(dataset, names, [[float(flag) for flag in row] for row in rows])
    classes = _class_names(dataset.features[names[0]])
    translate = label_translator([label for row in rows for label in row], classes, id2label)
    flags = []
    for index, row in enumerate(rows):
        held = [0.0] * count
        for label in row:
            try:
                held[translate(label)] = 1.0
            except ValueError as error:
                raise UserError(f"row {index} of {place}: {error}") from None
        flags.append(held)
    return _replaced(dataset, names, flags)


def map_values(dataset: Dataset, name: str, outputs: int, where: str) -> tuple[Dataset, str | None]:
    """Turn numbers, or lists of them, into float32 [outputs]; NaN where one is missing.

    Returns:
        Dataset and column; None if all values are missing.

    Raises:
        UserError: rows that hold no numbers, or another number of them.
    """
    rows: list[list[float]] = []
    for index, row in enumerate(column(dataset, name)):
        values = [math.nan] * outputs if is_missing(row) else row if isinstance(row, list) else [row]
        if len(values) != outputs:
            raise UserError(
                f"row {index} of {where}, column '{name}' has {len(values)} values; the model has {outputs}"
            )
        try:
            rows.append([math.nan if is_missing(value) else float(value) for value in values])
        except (TypeError, ValueError):
            raise UserError(f"row {index} of {where}, column '{name}': {quote(row)} is no number") from None
        if any(math.isinf(value) for value in rows[-1]):
            raise UserError(f"row {index} of {where}, column '{name}' holds an infinite value")
    if all(math.isnan(value) for row in rows for value in row):
        return dataset, None
    return _replaced(dataset, (name,), rows)


def _replaced(dataset: Dataset, names: tuple[str, ...], rows: list[list[float]]) -> tuple[Dataset, str]:
    """The dataset with a column of rows, under the first name, in place of the columns."""
    dataset, feature = dataset.remove_columns(list(names)), List(Value("float32"))
    if not dataset.column_names:
        return Dataset.from_dict({names[0]: rows}, features=Features({names[0]: feature})), names[0]
    return dataset.add_column(names[0], rows, feature=feature), names[0]


def _as_list(row: Any, index: int, place: str) -> list[Any]:
    if isinstance(row, list):
        return row
    if isinstance(row, str):
        # Of a table without lists, such as CSV.
        return [part.strip() for part in row.replace(";", ",").split(",") if part.strip()]
    if is_missing(row):
        raise UserError(f"row {index} of {place} is missing: give an empty list if no label holds")
    raise UserError(f"row {index} of {place}: {quote(row)} is no list of labels")


def _are_flags(rows: list[list[Any]], count: int) -> bool:
    """Whether each row says for every label whether it holds."""
    return count > 0 and all(
        len(row) == count and all(isinstance(flag, bool | int | float) and flag in (0, 1) for flag in row)
        for row in rows
    )


def _class_names(feature: Any) -> list[str] | None:
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return inner.names if isinstance(inner, ClassLabel) else None


def _holds_numbers(feature: Any, outputs: int) -> bool:
    if isinstance(feature, List | LargeList):
        return outputs > 1 and _holds_numbers(feature.feature, 1)
    return isinstance(feature, Value) and feature.dtype.startswith(("float", "double", "int", "uint", "decimal"))
