"""Labels as the model's class numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from datasets import ClassLabel, Dataset

from compressor.data.split import column
from compressor.errors import UserError
from compressor.models.tasks.task import IGNORED
from compressor.wording import quote

#: Class numbers as text, and truth as a number.
_DIGITS = re.compile(r"[0-9]{1,18}")
_BOOLEANS = {"false": 0, "true": 1}


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
    missing = [row for row, value in enumerate(values) if is_missing(value)]
    if len(missing) == len(values) or (missing and partial):
        return dataset, None
    if missing:
        raise UserError(f"{len(missing)} of {len(values)} labels of {where} are missing, the first in row {missing[0]}")
    place = f"{where}, column '{name}'"
    for row, value in enumerate(values):
        _check_scalar(value, row, place)
    if set(values) == {-1}:
        return dataset, None
    feature = dataset.features[name]
    names = feature.names if isinstance(feature, ClassLabel) else None
    table = _table([[value] for value in values], label_translator(values, names, id2label), place)
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
    place = f"{where}, column '{name}'"
    for row, tags in enumerate(rows):
        for tag in tags:
            _check_scalar(tag, row, place)
    table = _table(rows, label_translator([tag for tags in rows for tag in tags], names, id2label), place, [IGNORED])
    return dataset.remove_columns(name).add_column(name, [[table[tag] for tag in tags] for tags in rows])


def _table(
    rows: list[list], translate: Callable[[Any], int], place: str, ignored: Iterable[int] = ()
) -> dict[Any, int]:
    """{label: class number} of all labels; those `ignored` stay."""
    table: dict[Any, int] = {label: label for label in ignored}
    for row, labels in enumerate(rows):
        for label in labels:
            if label not in table:
                try:
                    table[label] = translate(label)
                except ValueError as error:
                    raise UserError(f"row {row} of {place}: {error}") from None
    return table


def _check_scalar(value: Any, row: int, place: str) -> None:
    if isinstance(value, list | dict):
        raise UserError(f"row {row} of {place}: {quote(value)} is neither a class number nor a name")


def is_missing(value: Any) -> bool:
    """Whether a label is null or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def label_translator(values: list, names: list[str] | None, id2label: Mapping[int, str] | None) -> Callable[[Any], int]:
    """A function from label to class number; its ValueError gives the reason."""
    if id2label is None:
        if not any(isinstance(value, str) for value in values):
            return _whole
        id2label = dict(enumerate(sorted({str(value) for value in values})))
    classes = _Classes(id2label)
    positions = None if names is None else classes.positions(names)

    def translate(value: Any) -> int:
        if isinstance(value, str | bool):
            return classes.by_name(str(value))
        index = _whole(value)
        if names is None or not 0 <= index < len(names):
            return classes.by_number(index)
        return positions[index] if positions else classes.by_name(names[index])

    return translate


class _Classes:
    """The model's classes by number and by name; several may have one name, as ImageNet has two cranes."""

    def __init__(self, id2label: Mapping[int, str]) -> None:
        self.count = len(id2label)
        self.nameless = all(label in (f"LABEL_{index}", str(index)) for index, label in id2label.items())
        self._names = {int(index): str(label) for index, label in id2label.items()}
        self._exact: dict[str, list[int]] = {}
        self._folded: dict[str, list[int]] = {}
        for index, label in self._names.items():
            self._exact.setdefault(label, []).append(index)
            self._folded.setdefault(label.casefold(), []).append(index)

    def positions(self, names: list[str]) -> list[int] | None:
        """Class number of each of the data's names if numbers match numbers; None if names match names.

        Numbers do if only one side has names, or if the model's equal names are all that keeps names from matching.
        """
        if len(names) != self.count:
            return None
        if all(self._is_own(index, name) for index, name in enumerate(names)):
            return list(range(self.count))
        if self.nameless == _are_numbers(names) or any(name in self._exact for name in names):
            return None
        if not _are_numbers(names):
            return list(range(self.count))
        # Not in the order of a list sorted as text.
        order = sorted(map(int, names))
        return [order.index(int(name)) for name in names]

    def _is_own(self, index: int, name: str) -> bool:
        """Whether a name is that of a class, or longer than one that several classes have."""
        own = self._names.get(index, "").casefold()
        return name.casefold() == own or (len(self._folded.get(own, ())) > 1 and own in name.casefold())

    def by_number(self, index: int) -> int:
        """Check a class number.

        Raises:
            ValueError: no class has it.
        """
        if not 0 <= index < self.count:
            raise ValueError(f"label {index} is out of range: the model has classes 0 to {self.count - 1}")
        return index

    def by_name(self, label: str) -> int:
        """Number of a name, of a number's digits, or of true or false.

        Raises:
            ValueError: no class or several have the name.
        """
        numbers = self._exact.get(label) or self._folded.get(label.casefold())
        if numbers is not None:
            if len(numbers) > 1:
                listed = " and ".join(str(number) for number in numbers)
                raise ValueError(f"label '{label}' is the name of several classes ({listed}): give their numbers")
            return numbers[0]
        if _DIGITS.fullmatch(label):
            return self.by_number(int(label))
        if label.casefold() in _BOOLEANS:
            return self.by_number(_BOOLEANS[label.casefold()])
        known = ", ".join(list(self._names.values())[:8]) + (", …" if self.count > 8 else "")
        raise ValueError(f"label '{label}' is not one of the model's labels ({known})")


def _are_numbers(names: list[str]) -> bool:
    return all(_DIGITS.fullmatch(name) for name in names)


def _whole(value: Any) -> int:
    # Refuses NaN and infinity too.
    if not isinstance(value, int | float) or not float(value).is_integer():
        raise ValueError(f"label {value!r} is neither a class number nor a name")
    return int(value)
