"""Finding columns by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datasets import Dataset, Translation

from compressor.data.columns.by_name import find_image, find_label, find_target, find_text, find_words
from compressor.data.columns.labels import map_labels, map_tags
from compressor.data.columns.multi_labels import find_label_columns, find_value_columns, map_label_sets, map_values
from compressor.data.split import Split
from compressor.errors import UserError
from compressor.models.tasks.task import Task
from compressor.recipe import DataOptions

#: Images or texts, with a label each if there are any.
ANY_TASK = Task("any", (), (), columns=True)


@dataclass(frozen=True)
class ColumnRequest:
    """The samples needed.

    Attributes:
        options: columns named by the user.
        reads: "image" or "text"; None for either.
    """

    options: DataOptions
    id2label: Mapping[int, str] | None
    task: Task
    reads: str | None


def find_samples(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """An image, text or pair, with a label if any.

    Raises:
        UserError: nothing that the model reads, or ambiguous.
    """
    if request.task.answers != "classes":
        return _find_float_labels(dataset, request, where)
    options = request.options
    classes = None if request.id2label is None else len(request.id2label)
    label = find_label(dataset, options.label_column, classes, where) if request.task.columns else None
    image, text = find_inputs(dataset, request, label, where)
    if label is not None:
        dataset, label = map_labels(dataset, label, request.id2label, where, partial=role == "train")
    return Split(dataset, image, label, text, where)


def _find_float_labels(dataset: Dataset, request: ColumnRequest, where: str) -> Split:
    """The same with labels that hold, or values."""
    option, names = request.options.label_column, request.id2label
    outputs = len(names) if names is not None else 1
    if request.task.answers == "labels":
        columns = find_label_columns(dataset, option, names, where)
    else:
        columns = find_value_columns(dataset, option, outputs, where)
    image, text = find_inputs(dataset, request, columns[0] if columns else None, where)
    label: str | None = None
    if columns and request.task.answers == "labels":
        dataset, label = map_label_sets(dataset, columns, names, where)
    elif columns:
        dataset, label = map_values(dataset, columns[0], outputs, where)
    return Split(dataset, image, label, text, where)


def find_tagged(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """Lists of words, with tags if any.

    Raises:
        UserError: no words, or ambiguous.
    """
    options = request.options
    classes = None if request.id2label is None else len(request.id2label)
    words, tags = find_words(dataset, options.text_column, options.label_column, classes, where)
    if tags is not None:
        dataset = map_tags(dataset, tags, request.id2label, where)
    return Split(dataset, None, tags, (words,), where)


def find_plain(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """One column of text.

    Raises:
        UserError: none, or several.
    """
    _, text = find_inputs(dataset, request, request.options.label_column, where)
    if len(text) > 1:
        raise UserError(
            f"{where} has several text columns, {' and '.join(text)}: name one with data.text_column (--text-column)"
        )
    return Split(dataset, None, None, text, where)


def find_source_and_target(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """A source text and its target.

    Raises:
        UserError: ambiguous or missing.
    """
    if any(isinstance(feature, dict | Translation) for feature in dataset.features.values()):
        dataset = dataset.flatten()
    text, target = find_target(dataset, request.options.text_column, request.options.target_column, where)
    return Split(dataset, None, None, text, where, target=target)


def find_inputs(
    dataset: Dataset, request: ColumnRequest, label: str | None, where: str
) -> tuple[str | None, tuple[str, ...]]:
    options, reads = request.options, request.reads
    named = reads == "text" and options.text_column is not None
    image = None if named else find_image(dataset, options.image_column, where)
    text = () if image else find_text(dataset, options.text_column, label, where)
    if image is None and not text:
        columns = ", ".join(dataset.column_names)
        raise UserError(f"{where} has neither an image nor a text column: say which of {columns} it is")
    if reads is not None and (image is not None) != (reads == "image"):
        have, need = ("images", "text") if image else ("text", "images")
        raise UserError(f"{where} holds {have}, but the teacher reads {need}")
    return image, text
