"""Pairs of sentences as texts in a row, since an embedding is of one text."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain
from typing import Any

from datasets import Dataset, Features, List, Value

from compressor.data.columns.by_task import ColumnRequest, find_inputs
from compressor.data.columns.multi_labels import find_value_columns, map_values
from compressor.data.split import Split, column


def find_sentences(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """A text, or a pair with a value (how alike they are), if any.

    Raises:
        UserError: no text, or ambiguous.
    """
    option = request.options.label_column
    _, text = find_inputs(dataset, request, option, where)
    values = find_value_columns(dataset, option, 1, where) if len(text) > 1 else ()
    label: str | None = None
    if values:
        dataset, label = map_values(dataset, values[0], 1, where)
    return Split(dataset, None, label, text, where)


def flatten_pairs(split: Split, preparation: Any = None) -> Split:
    """Both texts of every pair, the second after the first, with the pair's value; the first has NaN.

    A split of single texts stays as it is.
    """
    if len(split.text) < 2:
        return split
    first, second = (column(split.dataset, name) for name in split.text)
    name, label = split.text[0], split.label
    columns = {name: list(chain.from_iterable(zip(first, second, strict=True)))}
    features = {name: Value("string")}
    if label is not None:
        values = column(split.dataset, label)
        columns[label] = [row for value in values for row in ([math.nan], value)]
        features[label] = List(Value("float32"))
    if split.domain is not None:
        columns[split.domain] = [value for value in column(split.dataset, split.domain) for _ in range(2)]
        features[split.domain] = split.dataset.features[split.domain]
    dataset = Dataset.from_dict(columns, features=Features(features))
    return replace(split, dataset=dataset, text=(name,))
