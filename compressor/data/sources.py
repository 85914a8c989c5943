"""From data options to the split that training or evaluation reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from compressor.data.columns import as_images, find_image, find_label, find_text
from compressor.data.files import Raw, find_splits
from compressor.data.labels import map_labels
from compressor.data.split import Split
from compressor.errors import UserError
from compressor.recipe import DataOptions

__all__ = ["Split", "open_split"]

#: Splits that each role takes, best first.
_ROLES: dict[str, tuple[str, ...]] = {"train": ("train",), "eval": ("test", "validation", "val", "dev")}
#: Share that is held out for evaluation where there is one split for both roles.
HOLDOUT = 0.2


def open_split(
    options: DataOptions, role: Literal["train", "eval"], *, id2label: Mapping[int, str] | None = None
) -> Split:
    """Open the samples for training (and calibration) or for evaluation.

    Where both roles come to the same split, a fixed fifth of it is held out for evaluation.  For evaluation a split
    with labels is preferred; without one, the labels of the result are None.

    Args:
        options: the source, and splits and columns if they are not to be found by themselves.
        role: "train" or "eval".
        id2label: the labels of the model, which the data's labels are mapped to; None keeps the data's own.

    Raises:
        UserError: there is no such source, split or column; it cannot be read or is empty; or its labels are not
            the model's.
    """
    if options.source is None:
        raise UserError("no data: set data.source to images, table files, a built-in name or a Hub dataset")
    splits = find_splits(options.source)
    names = _candidates(splits, options, role)
    if not names:
        key = "train_split" if role == "train" else "eval_split"
        raise UserError(
            f"cannot tell which split of {options.source} is for {role}: set data.{key} to one of {', '.join(splits)}"
        )
    opened = _open(splits, names[0], options, id2label, role)
    for name in names[1:]:
        if opened.label is not None:
            break
        other = _open(splits, name, options, id2label, role)
        opened = opened if other.label is None else other
    shared = names == _candidates(splits, options, "train") == _candidates(splits, options, "eval")
    return _held_out(opened, role) if shared else opened


def _candidates(splits: dict[str, Raw], options: DataOptions, role: str) -> list[str]:
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


def _open(
    splits: dict[str, Raw], name: str, options: DataOptions, id2label: Mapping[int, str] | None, role: str
) -> Split:
    where = f"{options.source} ({name})"
    raw = splits[name]
    dataset = raw.read()
    if not len(dataset):
        raise UserError(f"{where} is empty")
    label = find_label(dataset, options.label_column, None if id2label is None else len(id2label), where)
    image = find_image(dataset, options.image_column, where)
    text = () if image else find_text(dataset, label, where)
    if image is None and not text:
        columns = ", ".join(dataset.column_names)
        raise UserError(f"{where} has neither an image nor a text column: say which of {columns} it is")
    if image is not None:
        dataset = as_images(dataset, image, raw.base, where)
    if label is not None:
        dataset, label = map_labels(dataset, label, id2label, where, partial=role == "train")
    return Split(dataset, image, label, text, where)


def _held_out(split: Split, role: str) -> Split:
    if len(split) < 2:
        raise UserError(f"{split.name} has one sample: too few to hold some out for evaluation")
    order = np.random.default_rng(0).permutation(len(split))
    count = max(1, round(HOLDOUT * len(split)))
    return split.select(order[:count] if role == "eval" else order[count:])
