"""Texts that can go on in several ways, and the right one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset
from datasets.table import InMemoryTable

from compressor.data.columns.by_name import named_column
from compressor.data.columns.by_task import ColumnRequest
from compressor.data.domains import DOMAIN
from compressor.data.readers.texts import TextReader
from compressor.data.samples import ReadingOptions, Sample, collate
from compressor.data.split import Split, column
from compressor.errors import UserError
from compressor.models.tasks.task import IGNORED
from compressor.wording import quote

#: Names of columns of lists of choices; of single ones by their number, such as `ending0`.
_LISTS = ("choices", "endings", "options", "answers")
_NUMBERED = re.compile(r"(choice|ending|option|answer|sol|hyp)_?([0-9]+|[a-e])", re.IGNORECASE)
#: Names of the texts before the choices; two at most, in this order.
_TEXTS = ("article", "context", "passage", "premise", "sent1", "ctx", "goal", "question", "sent2", "sentence")
_LABELS = ("label", "labels", "answer", "answerkey", "answer_key", "correct", "target")
#: The column of lists of choices, as they are kept.
_CHOICES, _LABEL = "choices", "label"


def find_choices(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """One or two texts, the choices that may follow, and the right one if known.

    Raises:
        UserError: a column is missing, or rows have unlike numbers of choices.
    """
    names = {name.lower(): name for name in dataset.column_names}
    numbered = {name: match for name in dataset.column_names if (match := _NUMBERED.fullmatch(name))}
    single = [name for name, _ in sorted(numbered.items(), key=lambda item: (len(item[1][2]), item[1][2]))]
    lists = [names[name] for name in _LISTS if name in names and names[name] not in single]
    if len(single) < 2 and not lists:
        raise UserError(
            f"{where} has no columns of choices: name them ending0, ending1, … or give a list, choices; its columns "
            f"are {', '.join(dataset.column_names)}"
        )
    if len(single) >= 2:
        rows = [
            [str(text or "") for text in row] for row in zip(*(column(dataset, name) for name in single), strict=True)
        ]
        keys = None
    else:
        rows, keys = _listed(column(dataset, lists[0]), where, lists[0])
    option = request.options.text_column
    texts = [named_column(dataset, name, "text", where) for name in option] if option is not None else []
    texts = texts or [names[name] for name in _TEXTS if name in names][:2]
    if not texts:
        raise UserError(
            f"{where} has no text before its choices: name its column with data.text_column (--text-column)"
        )
    columns: dict[str, Any] = {name: [str(value or "") for value in column(dataset, name)] for name in texts}
    columns[_CHOICES] = pa.array(rows, pa.list_(pa.string()))
    labels = _labels(dataset, request.options.label_column, {*texts, *single, *lists[:1]}, rows, keys, where)
    if labels is not None:
        columns[_LABEL] = pa.array(labels, pa.int64())
    if DOMAIN in dataset.column_names:
        columns.setdefault(DOMAIN, column(dataset, DOMAIN))
    table = Dataset(InMemoryTable(pa.table(columns)))
    return Split(table, None, None if labels is None else _LABEL, (*texts, _CHOICES), where)


def _listed(values: Sequence[Any], where: str, name: str) -> tuple[list[list[str]], list[list[str]] | None]:
    """Lists of choices, and their keys if they are {"text": [...], "label": [...]}."""
    rows: list[list[str]] = []
    keys: list[list[str]] = []
    for index, value in enumerate(values):
        texts = value.get("text") if isinstance(value, dict) else value
        if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(text, str) for text in texts):
            raise UserError(f"row {index} of {where}, column '{name}' is no list of two or more texts")
        if len(texts) != len(rows[0] if rows else texts):
            raise UserError(
                f"row {index} of {where}, column '{name}' has {len(texts)} choices and the first {len(rows[0])}: give "
                "rows of as many"
            )
        rows.append(texts)
        keys.append([str(key) for key in value.get("label") or []] if isinstance(value, dict) else [])
    return rows, keys if any(keys) else None


def _labels(
    dataset: Dataset,
    option: str | None,
    used: set[str],
    rows: list[list[str]],
    keys: list[list[str]] | None,
    where: str,
) -> list[int] | None:
    """Numbers of the right choices, `IGNORED` where unknown; None if none is known."""
    names = {name.lower(): name for name in dataset.column_names if name not in used}
    name = option or next((names[each] for each in _LABELS if each in names), None)
    if name is None:
        return None
    named_column(dataset, name, "label", where)
    feature = dataset.features[name]
    classes = feature.names if isinstance(feature, ClassLabel) else None
    labels = []
    for index, value in enumerate(column(dataset, name)):
        text = "" if value is None else str(value).strip() if classes is None or value < 0 else str(classes[value])
        own = keys[index] if keys is not None else []
        number = own.index(text) if text in own else _number(text, value, len(rows[index]))
        if number is None:
            raise UserError(
                f"row {index} of {where}, column '{name}': {quote(value)} is none of its {len(rows[index])} choices, "
                "which are numbered from 0, or A, B, …"
            )
        labels.append(number)
    return labels if any(label >= 0 for label in labels) else None


def _number(text: str, value: Any, count: int) -> int | None:
    if text in ("", "-1"):
        return IGNORED
    if len(text) == 1 and text.isalpha():
        number = ord(text.upper()) - ord("A")
    elif text.isdecimal():
        number = int(text)
    else:
        number = int(value) if isinstance(value, int) else count
    return number if 0 <= number < count else None


class ChoicesReader(TextReader):
    """Reads a text with each of its choices: `input_ids`, `attention_mask`, for pairs `token_type_ids` [C, T]."""

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        super().__init__(split, options)
        *self._texts, self._choices = split.text

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        rows = self._samples[list(indices)]
        firsts, seconds = [], []
        for row, choices in enumerate(rows[self._choices]):
            first, *between = (str(rows[name][row] or "") for name in self._texts)
            firsts += [first] * len(choices)
            seconds += [" ".join((*between, choice)) for choice in choices]
        encoded, samples, start = self.encode(firsts, seconds), [], 0
        for row, choices in enumerate(rows[self._choices]):
            # Padded to the longest choice.
            sample = collate([self.sample(encoded, start + choice) for choice in range(len(choices))], self.pad)
            start += len(choices)
            if self._labels is not None:
                sample["labels"] = self._labels[indices[row]]
            samples.append(sample)
        return samples
