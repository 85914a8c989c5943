"""Data in memory as datasets."""

from __future__ import annotations

import os
from functools import partial
from itertools import islice

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, IterableDatasetDict

from compressor.api.kinds import GivenData
from compressor.data.source_splits import RawSplit
from compressor.errors import UserError
from compressor.utils.logging import root_cause

#: Most rows that are read of a stream.
MOST_ROWS = 1 << 16


def splits_of(given: GivenData, is_image: bool, most: int | None = None) -> dict[str, RawSplit]:
    """Splits of data in memory; one without splits serves every role whole.

    Args:
        is_image: texts are paths of images then.
        most: rows of a stream.
    """
    value = given.value
    if isinstance(value, DatasetDict | IterableDatasetDict):
        return {str(name): RawSplit(partial(_rows_of, part, most)) for name, part in value.items()}
    read = partial(_rows_of, value, most) if given.kind == "dataset" else partial(_from_entries, given, is_image)
    # Two names, so that nothing is held out for the other role.
    return {"train": RawSplit(read), "test": RawSplit(read)}


def _rows_of(dataset: Dataset | IterableDataset, most: int | None) -> Dataset:
    if isinstance(dataset, Dataset):
        return dataset.with_format(None)
    rows = list(islice(dataset, most or MOST_ROWS))
    return Dataset.from_list(rows, features=dataset.features)


def _from_entries(given: GivenData, is_image: bool) -> Dataset:
    """A dataset of a list of texts, words, images or rows.

    Raises:
        UserError: values of several kinds in one column.
    """
    try:
        if given.kind == "images":
            return Dataset.from_dict({"image": given.value}, features=Features({"image": Image()}))
        if given.kind == "texts":
            return Dataset.from_dict({"image" if is_image else "text": [os.fspath(text) for text in given.value]})
        if given.kind == "words":
            return Dataset.from_dict({"tokens": given.value})
        return Dataset.from_list([dict(row) for row in given.value])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{given.name} make no columns, each of one kind: {root_cause(error)}") from None
