"""From data options to the split that training or evaluation reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from datasets import Dataset

from compressor.data.column_finders import ANY_TASK, FINDERS, ColumnRequest, find_samples
from compressor.data.columns import as_images
from compressor.data.files import UNNAMED, RawSplit, find_splits
from compressor.data.packing import head_or_tail
from compressor.data.split import Split, column
from compressor.errors import UserError
from compressor.models.tasks import Task
from compressor.recipe import DataOptions

__all__ = ["Split", "open_split"]

#: Splits that each role takes, best first.
_ROLES: dict[str, tuple[str, ...]] = {"train": ("train",), "eval": ("test", "validation", "val", "dev")}
#: Share that is held out for evaluation where there is one split for both roles.
HOLDOUT = 0.2


def open_split(
    options: DataOptions,
    role: Literal["train", "eval"],
    *,
    id2label: Mapping[int, str] | None = None,
    task: Task | None = None,
    reads: str | None = None,
) -> Split:
    """Open the samples for training (and calibration) or for evaluation.

    Where both roles come to the same split, a fixed fifth of it is held out for evaluation; of text for language models
    its last tenth.  For evaluation a split with labels is preferred; without one, the labels of the result are None.

    Args:
        options: the source, and splits and columns if they are not to be found by themselves.
        role: "train" or "eval".
        id2label: the labels of the model, which the data's labels are mapped to; None keeps the data's own.
        task: what the samples are for, which says what columns there must be; None takes images or texts as they are.
        reads: "image" or "text" if the model reads nothing else.

    Raises:
        UserError: there is no such source, split or column; it cannot be read or is empty; or its labels are not
            the model's.
    """
    if options.source is None:
        raise UserError("no data: set data.source to images, text, table files, a built-in name or a Hub dataset")
    splits = find_splits(options.source)
    names = _candidates(splits, options, role)
    if not names:
        key = "train_split" if role == "train" else "eval_split"
        raise UserError(
            f"cannot tell which split of {options.source} is for {role}: set data.{key} to one of {', '.join(splits)}"
        )
    wanted = ColumnRequest(options, id2label, task or ANY_TASK, reads)
    opened = _open(splits, names[0], wanted, role)
    for name in names[1:]:
        if opened.label is not None or not wanted.task.columns:
            break
        other = _open(splits, name, wanted, role)
        opened = opened if other.label is None else other
    shared = names == _candidates(splits, options, "train") == _candidates(splits, options, "eval")
    if not shared:
        return opened
    return head_or_tail(opened, role) if wanted.task.packed else _held_out(opened, role)


def _candidates(splits: dict[str, RawSplit], options: DataOptions, role: str) -> list[str]:
    """The splits that a role can take, best first."""
    option = options.train_split if role == "train" else options.eval_split
    if option is not None:
        if option not in splits:
            raise UserError(f"{options.source} has no split '{option}' (data.{role}_split): it has {', '.join(splits)}")
        return [option]
    if len(splits) == 1:
        return list(splits)
    wanted = [name for name in _ROLES[role] if name in splits]
    return wanted if wanted or role == "train" else [name for name in _ROLES["train"] if name in splits]


def _open(splits: dict[str, RawSplit], name: str, wanted: ColumnRequest, role: str) -> Split:
    where = f"{wanted.options.source} ({name})" if name != UNNAMED else str(wanted.options.source)
    raw = splits[name]
    dataset = raw.read()
    if not len(dataset):
        raise UserError(f"{where} is empty")
    found = FINDERS.get(wanted.task.name, find_samples)(dataset, wanted, where, role)
    if found.image is not None:
        return replace(found, dataset=as_images(found.dataset, found.image, raw.base, where))
    if raw.lines and not wanted.task.packed:
        # Lines are samples of their own: without their line breaks, and not the empty ones.
        (text,) = found.text
        lines = [line.strip() for line in column(found.dataset, text)]
        found = replace(found, dataset=Dataset.from_dict({text: [line for line in lines if line]}))
        if not len(found):
            raise UserError(f"{where} holds no text")
    return replace(found, lines=raw.lines)


def _held_out(split: Split, role: str) -> Split:
    if len(split) < 2:
        raise UserError(f"{split.name} has one sample: too few to hold some out for evaluation")
    order = np.random.default_rng(0).permutation(len(split))
    count = max(1, round(HOLDOUT * len(split)))
    return split.select(order[:count] if role == "eval" else order[count:])
