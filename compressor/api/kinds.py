"""What kind of data the user gave, told by its type alone: nothing is read from a disk or a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from compressor.errors import UserError
from compressor.wording import quote

#: A name as in `--data`; texts, images or rows; a `datasets.Dataset`; batches or samples of model inputs.
Data: TypeAlias = Any

#: What data may be given as.
DATA_KINDS = (
    "a name or path as in --data, a list of texts or of PIL images, a datasets.Dataset, or a DataLoader or list of "
    "batches (dicts of model inputs)"
)
#: How rows with labels are given.
_ROWS = "datasets.Dataset.from_dict"

#: {input: dimensions of one sample's}.
_SAMPLE_DIMENSIONS = {"pixel_values": 3, "input_features": 2, "inputs_embeds": 2, "input_ids": 1}

DataKind = Literal["source", "dataset", "texts", "words", "images", "rows", "tensors", "samples"]


@dataclass(frozen=True)
class GivenData:
    """Data of the user.

    Attributes:
        kind: source: a name; dataset: of the library datasets; texts, words (lists of them), images, rows (dicts of
            plain values): one entry each; tensors: dicts of tensors, batches or samples; samples: a torch Dataset of
            such samples, read when they are needed.
        value: the name, the dataset, or the entries.
        name: for messages and reports.
    """

    kind: DataKind
    value: Any
    name: str


def kind_of_data(data: Data, call: str, most: int | None = None) -> GivenData:
    """The data by its kind.

    Args:
        call: for messages, such as "fuse: calibration".
        most: samples that are read of an iterator, a DataLoader or a torch Dataset; None for all.

    Raises:
        UserError: nothing that can be read; says what to give instead.
    """
    if data is None:
        raise UserError(f"{call} is missing: give {DATA_KINDS}")
    if isinstance(data, str | os.PathLike):
        return _source(data, call)
    if _is(data, "datasets", "Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict"):
        return GivenData("dataset", data, f"a {type(data).__name__}")
    if (fault := _fault_of_whole(data)) is not None:
        raise UserError(f"{call}: {fault}")
    if (samples := _lazy_samples(data)) is not None:
        return samples
    entries = _entries(data, call, most)
    first = entries[0]
    for kind, fits in _ENTRIES.items():
        if fits(first):
            odd = next((index for index, entry in enumerate(entries) if not fits(entry)), None)
            if odd is not None:
                raise UserError(
                    f"{call}: entry {odd} is {_named(entries[odd])}, and those before it are {_NOUNS[kind][1]}: give "
                    "entries of one kind"
                )
            return GivenData(kind, entries, f"{len(entries)} {_NOUNS[kind][len(entries) != 1]}")
    raise UserError(f"{call}: {_fault_of_entry(first)}")


def _source(data: Any, call: str) -> GivenData:
    name = os.fspath(data)
    if not isinstance(name, str) or not name:
        raise UserError(f"{call}: {name!r} names no data: give {DATA_KINDS}")
    return GivenData("source", name, name)


def _lazy_samples(data: Any) -> GivenData | None:
    """A torch Dataset of dicts of tensors without a batch dimension, or None."""
    if hasattr(data, "__iter__") or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        return None
    if not len(data) or not is_tensor_dict(first := data[0]) or batch_size_of(first) is not None:
        return None
    return GivenData("samples", data, f"{len(data)} samples of a {type(data).__name__}")


def _entries(data: Any, call: str, most: int | None) -> list[Any]:
    """The entries of a list, or the first of an iterator, a DataLoader or a torch Dataset."""
    if isinstance(data, Sequence):
        entries = list(data)
    elif hasattr(data, "__iter__"):
        entries = _first(data, most)
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        entries = _first((data[index] for index in range(len(data))), most)
    else:
        raise UserError(f"{call}: {_named(data)} is no data: give {DATA_KINDS}")
    if not entries and isinstance(data, Iterator):
        raise UserError(f"{call}: the {type(data).__name__} is used up or empty: make it anew, or give a list")
    if not entries:
        raise UserError(f"{call}: the {type(data).__name__} is empty: give at least one sample")
    return entries


def _first(entries: Iterable[Any], most: int | None) -> list[Any]:
    read: list[Any] = []
    samples = 0
    for entry in entries:
        read.append(entry)
        samples += batch_size_of(entry) or 1 if is_tensor_dict(entry) else 1
        if most is not None and samples >= most:
            break
    return read


def batch_size_of(entry: Mapping[str, Any]) -> int | None:
    """Samples of a dict of model inputs with a batch dimension; None without one."""
    name = next((name for name in _SAMPLE_DIMENSIONS if name in entry), None)
    tensor = entry[name] if name else next(iter(entry.values()))
    return len(tensor) if tensor.dim() > (_SAMPLE_DIMENSIONS[name] if name else 1) else None


def is_tensor_dict(entry: Any) -> bool:
    """Whether it is a dict of tensors, also one of a tokenizer or an image processor."""
    import torch

    return (
        isinstance(entry, Mapping) and bool(entry) and all(isinstance(value, torch.Tensor) for value in entry.values())
    )


def _is_words(entry: Any) -> bool:
    return isinstance(entry, list) and all(isinstance(word, str) for word in entry)


def _is_image(entry: Any) -> bool:
    return _is(entry, "PIL.Image", "Image")


def _is_row(entry: Any) -> bool:
    import torch

    if not isinstance(entry, Mapping) or not entry:
        return False
    arrays = any(_is(entry[name], "numpy", "ndarray") for name in _SAMPLE_DIMENSIONS if name in entry)
    return not arrays and not any(isinstance(value, torch.Tensor) for value in entry.values())


#: {kind: what each of its entries is}.
_ENTRIES: dict[DataKind, Callable[[Any], bool]] = {
    "texts": lambda entry: isinstance(entry, str | os.PathLike),
    "words": _is_words,
    "images": _is_image,
    "tensors": is_tensor_dict,
    "rows": _is_row,
}
#: {kind: one entry, several}.
_NOUNS = {
    "texts": ("text", "texts"),
    "words": ("list of words", "lists of words"),
    "images": ("image", "images"),
    "tensors": ("dict of tensors", "dicts of tensors"),
    "rows": ("row", "rows"),
}


def _fault_of_whole(data: Any) -> str | None:
    """Why data cannot be read as a whole, with what to do; None if it may be."""
    import torch

    if isinstance(data, bool | int | float | complex | bytes | bytearray):
        return f"{_named(data)} is no data: give {DATA_KINDS}"
    if isinstance(data, torch.Tensor):
        return f"a tensor of shape {tuple(data.shape)} has no name: give a list of batches, {_batches_of(data)}"
    if _is(data, "numpy", "ndarray") and data.dtype.kind in "UO":
        return "an array of texts or objects: give a list, array.tolist()"
    if _is(data, "numpy", "ndarray"):
        return (
            f"an array of shape {data.shape} is neither images nor model inputs: give PIL images, "
            "[Image.fromarray(a) for a in array], or batches of model inputs, [{'pixel_values': torch.tensor(…)}]"
        )
    if _is(data, "pandas", "DataFrame"):
        return "a DataFrame is read as a dataset: give datasets.Dataset.from_pandas(frame)"
    if is_tensor_dict(data):
        return "this is a single batch: put it into a list, [batch]"
    if isinstance(data, Mapping) and _SAMPLE_DIMENSIONS.keys() & data.keys():
        return "this is a batch, not of tensors: make it with return_tensors='pt' and put it into a list, [batch]"
    if isinstance(data, Mapping) and any(_is(value, "datasets", "Dataset") for value in data.values()):
        return "a dict of datasets has its own class: give datasets.DatasetDict(data)"
    if isinstance(data, Mapping):
        return f"a dict is no list of samples: give {_ROWS}(…) for columns, or a list of dicts for rows"
    if _is_image(data):
        return "this is a single image: put it into a list, [image]"
    if hasattr(data, "from_pretrained") or hasattr(data, "state_dict"):
        return f"a {type(data).__name__} is no data (several models go into one list): give {DATA_KINDS}"
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str | Mapping) and not _is_image(data[0]):
        return _fault_of_pair(*data)
    if callable(data) and not hasattr(data, "__len__"):
        return f"the function {getattr(data, '__name__', '')} is not called: give what it returns, such as data()"
    return None


def _fault_of_pair(inputs: Any, labels: Any) -> str:
    """What to do with a tuple of all inputs and all labels."""
    import torch

    if isinstance(inputs, torch.Tensor):
        name = _input_name(inputs)
        return f"a tuple of tensors has no names: give batches, [{{'{name}': data[0], 'labels': data[1]}}]"
    column = "image" if isinstance(inputs, Sequence) and inputs and _is_image(inputs[0]) else "text"
    return f"a tuple of inputs and labels has no names: give {_ROWS}({{'{column}': data[0], 'label': data[1]}})"


def _fault_of_entry(entry: Any) -> str:
    """Why a list of such entries cannot be read, with what to do."""
    import torch

    if isinstance(entry, list | tuple):
        return _fault_of_tuple(entry)
    if isinstance(entry, torch.Tensor):
        return f"its entries are tensors, which have no name: give dicts, such as {_batches_of(entry, 'data')}"
    if _is(entry, "numpy", "ndarray"):
        return "its entries are arrays: give PIL images, [Image.fromarray(array) for array in data]"
    if isinstance(entry, Mapping):
        odd = next((key for key, value in entry.items() if not isinstance(value, torch.Tensor)), None)
        if odd is None:
            return "its dicts are empty: give dicts of model inputs"
        return f"its dicts are model inputs, and '{odd}' is {_named(entry[odd])}: give tensors (torch.as_tensor)"
    return f"its entries are {type(entry).__name__}: give {DATA_KINDS}"


def _fault_of_tuple(entry: Sequence[Any]) -> str:
    import torch

    first = next(iter(entry), None)
    if isinstance(first, torch.Tensor):
        name = _input_name(first)
        labels = ", 'labels': y" if len(entry) > 1 else ""
        spread = "x, y" if len(entry) == 2 else "x, *_" if not labels else "x, y, *_"
        return (
            f"its batches are tuples, whose parts have no name: give dicts, "
            f"[{{'{name}': x{labels}}} for {spread} in data]"
        )
    column = "image" if _is_image(first) else "text"
    return (
        f"its entries are {'tuples' if isinstance(entry, tuple) else 'lists'}, whose parts have no name: give "
        f"{_ROWS}({{'{column}': […], 'label': […]}})"
    )


def _batches_of(tensor: Any, data: str | None = None) -> str:
    name = _input_name(tensor)
    return f"[{{'{name}': x}} for x in {data}]" if data else f"[{{'{name}': x}} for x in tensor.split(128)]"


def _input_name(tensor: Any) -> str:
    return "pixel_values" if tensor.is_floating_point() else "input_ids"


def _named(value: Any) -> str:
    """Such as "int 3" or "a Tensor"."""
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"{kind} {quote(value)}" if isinstance(value, bool | int | float | str | bytes) else f"a {kind}"


def _is(value: Any, module: str, *names: str) -> bool:
    """Whether a value is of a library's class; the library is not imported for that."""
    return any(
        base.__name__ in names and (base.__module__ or "").split(".")[0] == module.split(".")[0]
        for base in type(value).__mro__
    )
