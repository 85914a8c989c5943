"""Data in memory as datasets."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Literal

import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, IterableDatasetDict
from torch import Tensor
from transformers import PreTrainedModel

from compressor.api.kinds import GivenData
from compressor.data.source_splits import RawSplit
from compressor.data.sources import split_candidates
from compressor.errors import UserError
from compressor.recipe import DataOptions
from compressor.utils.logging import root_cause

#: Most rows that are read of a stream.
MOST_ROWS = 1 << 16


def splits_of(given: GivenData, paths: str = "text", most: int | None = None) -> dict[str, RawSplit]:
    """Splits of data in memory; one without splits serves every role whole.

    Args:
        paths: what texts are paths of, "image" or "audio"; "text": texts are themselves.
        most: rows of a stream.
    """
    value = given.value
    if isinstance(value, DatasetDict | IterableDatasetDict):
        return {str(name): RawSplit(partial(_rows_of, part, most)) for name, part in value.items()}
    read = partial(_rows_of, value, most) if given.kind == "dataset" else partial(_from_entries, given, paths)
    # Two names, so that nothing is held out for the other role.
    return {"train": RawSplit(read), "test": RawSplit(read)}


def _rows_of(dataset: Dataset | IterableDataset, most: int | None) -> Dataset:
    if isinstance(dataset, Dataset):
        return dataset.with_format(None)
    rows = list(islice(dataset, most or MOST_ROWS))
    return Dataset.from_list(rows, features=dataset.features)


def _from_entries(given: GivenData, paths: str) -> Dataset:
    """A dataset of a list of texts, words, images or rows.

    Raises:
        UserError: values of several kinds in one column.
    """
    try:
        if given.kind == "images":
            return Dataset.from_dict({"image": given.value}, features=Features({"image": Image()}))
        if given.kind == "texts":
            return Dataset.from_dict({paths: [os.fspath(text) for text in given.value]})
        if given.kind == "words":
            return Dataset.from_dict({"tokens": given.value})
        return Dataset.from_list([dict(row) for row in given.value])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{given.name} make no columns, each of one kind: {root_cause(error)}") from None


class TensorRows:
    """Rows of model inputs as samples of tensors.

    Args:
        columns: {input: its column}.
    """

    def __init__(self, dataset: Dataset, columns: Mapping[str, str]) -> None:
        self._dataset, self._columns = dataset.select_columns(list(columns.values())), dict(columns)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self._dataset[index]
        return {name: torch.as_tensor(row[column]) for name, column in self._columns.items()}


def tensor_rows(
    given: GivenData, model: PreTrainedModel, role: Literal["train", "eval"], options: DataOptions, most: int | None
) -> TensorRows | None:
    """The samples of a dataset whose columns are a model's inputs, such as one that was tokenised; None of others."""
    splits = splits_of(given, most=most)
    name, *_ = [*split_candidates(splits, options, role), *splits]
    dataset = splits[name].read()
    if str(model.main_input_name) not in dataset.column_names or not len(dataset):
        return None
    known = inspect.signature(model.forward).parameters
    columns = {name: name for name in dataset.column_names if name in known}
    label = options.label_column or "label"
    if "labels" not in columns and label in dataset.column_names:
        columns["labels"] = label
    return TensorRows(dataset, columns)
