"""Opening a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Literal

import numpy as np
from datasets import Dataset

from compressor.data.columns.by_name import as_images
from compressor.data.columns.by_task import ANY_TASK, ColumnRequest, find_samples
from compressor.data.domains import find_domain
from compressor.data.files.sound_files import as_sounds
from compressor.data.images.bounds import ImageBounds
from compressor.data.readers.packing import head_or_tail
from compressor.data.source_splits import UNNAMED, RawSplit, find_splits
from compressor.data.split import Split, column
from compressor.data.task_data import TASK_DATA
from compressor.errors import UserError
from compressor.models.tasks.task import Task
from compressor.recipe import DataOptions

__all__ = ["Split", "open_split"]

#: Splits that each role takes, best first.
_ROLES: dict[str, tuple[str, ...]] = {"train": ("train",), "eval": ("test", "validation", "val", "dev")}
#: Share held out if both roles have one split.
HOLDOUT = 0.2


def open_split(
    options: DataOptions,
    role: Literal["train", "eval"],
    *,
    id2label: Mapping[int, str] | None = None,
    task: Task | None = None,
    reads: str | None = None,
    splits: Mapping[str, RawSplit] | None = None,
) -> Split:
    """Open samples for training (and calibration) or evaluation.

    If both roles have one split, evaluation gets a fixed fifth (language models: the last tenth of the text).
    Evaluation prefers labelled splits.

    Args:
        options: source, splits and columns.
        id2label: the model's labels; None keeps the data's.
        task: decides the columns; None: any images or texts.
        reads: "image" or "text"; None for either.
        splits: of data in memory, whose source only names it; None: found by the source.

    Raises:
        UserError: missing, unreadable or empty; unknown labels.
    """
    if options.source is None:
        raise UserError("no data: set data.source to images, text, table files, a built-in name or a Hub dataset")
    splits = find_splits(options.source) if splits is None else splits
    names = split_candidates(splits, options, role)
    if not names:
        key = "train_split" if role == "train" else "eval_split"
        raise UserError(
            f"cannot tell which split of {options.source} is for {role}: set data.{key} to one of {', '.join(splits)}"
        )
    request = ColumnRequest(options, id2label, task or ANY_TASK, reads)
    opened = _open(splits, names[0], request, role)
    for name in names[1:]:
        if opened.label is not None or not request.task.columns:
            break
        labelled = _open(splits, name, request, role)
        opened = opened if labelled.label is None else labelled
    shared = names == split_candidates(splits, options, "train") == split_candidates(splits, options, "eval")
    if not shared:
        return opened
    return head_or_tail(opened, role) if request.task.packed else _held_out(opened, role)


def split_candidates(splits: Mapping[str, RawSplit], options: DataOptions, role: str) -> list[str]:
    """Names of splits for a role, best first.

    Raises:
        UserError: a split is named that is not there.
    """
    option = options.train_split if role == "train" else options.eval_split
    if option is not None:
        if option not in splits:
            raise UserError(f"{options.source} has no split '{option}' (data.{role}_split): it has {', '.join(splits)}")
        return [option]
    if len(splits) == 1:
        return list(splits)
    usual = [name for name in _ROLES[role] if name in splits]
    return usual if usual or role == "train" else [name for name in _ROLES["train"] if name in splits]


def _open(splits: Mapping[str, RawSplit], name: str, request: ColumnRequest, role: str) -> Split:
    where = f"{request.options.source} ({name})" if name != UNNAMED else str(request.options.source)
    raw = splits[name]
    dataset = raw.read()
    if not len(dataset):
        raise UserError(f"{where} is empty")
    find = TASK_DATA[request.task.name].find if request.task.name in TASK_DATA else find_samples
    split = find(dataset, request, where, role)
    split = replace(split, domain=find_domain(dataset, (split.label, split.target, *split.text)))
    if split.image is not None:
        images = as_images(split.dataset, split.image, raw.base, where)
        if split.masks and split.label is not None:
            images = as_images(images, split.label, raw.base, where)
        return replace(split, dataset=images, image_bounds=_bounds(splits, split.image, request.options))
    if split.audio is not None:
        return replace(split, dataset=as_sounds(split.dataset, split.audio, raw.base, where))
    if raw.lines and not request.task.packed:
        # Samples are lines that are not empty.
        (text,) = split.text
        lines = [line.strip() for line in column(split.dataset, text)]
        domains = {} if split.domain is None else {split.domain: column(split.dataset, split.domain)}
        split = replace(split, dataset=Dataset.from_dict({text: lines, **domains}))
        split = split.select(np.flatnonzero([bool(line) for line in lines]))
        if not len(split):
            raise UserError(f"{where} holds no text")
    return replace(split, lines=raw.lines)


def _bounds(splits: Mapping[str, RawSplit], name: str, options: DataOptions) -> ImageBounds:
    """Black and white by the images of both roles, so that they agree."""

    def read() -> Iterator[Dataset]:
        roles = (split_candidates(splits, options, role) for role in _ROLES)
        for split in dict.fromkeys(chain(*roles)):
            dataset = splits[split].read()
            if len(dataset) and name in dataset.column_names:
                yield as_images(dataset, name, splits[split].base, split)

    return ImageBounds(read, name, str(options.source))


def _held_out(split: Split, role: str) -> Split:
    if len(split) < 2:
        raise UserError(f"{split.name} has one sample: too few to hold some out for evaluation")
    order = np.random.default_rng(0).permutation(len(split))
    count = max(1, round(HOLDOUT * len(split)))
    return split.select(order[:count] if role == "eval" else order[count:])
