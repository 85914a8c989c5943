"""Folders that `save_to_disk` of `datasets` wrote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from datasets import Dataset

from compressor.data.files.folders import check_link, check_name, is_hidden
from compressor.errors import UserError
from compressor.utils.input_files import MIB, check_regular, read_json
from compressor.utils.logging import quiet_datasets, root_cause

#: Files of one data set, and that of several splits.
_INFO, _STATE, _SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
_JSON_BYTES = 16 * MIB


def saved_folders(root: Path) -> dict[str, Path]:
    """Folders of saved data sets by split: `root` itself as "all", those that it lists, or subfolders; {} if none.

    Raises:
        UserError: a damaged list.
    """
    if _is_saved(root):
        return {"all": root}
    if os.path.isfile(root / _SPLITS):
        values = _json(root / _SPLITS)
        names = values.get("splits") if isinstance(values, dict) else None
        if not names or not isinstance(names, list) or not all(_is_plain(name) for name in names):
            raise UserError(f"{root / _SPLITS} does not list splits")
        return {name: root / name for name in names}
    inner = sorted(name for name in os.listdir(root) if not is_hidden(name) and _is_saved(root / name))
    for name in inner:
        check_name(name)
    return {name: root / name for name in inner}


def read_saved(folder: Path) -> Dataset:
    """The rows of a saved data set.

    Raises:
        UserError: missing or damaged files.
    """
    if not _is_saved(folder):
        raise UserError(f"{folder} is no saved data set: {_INFO} and {_STATE} are not both there")
    state = _json(folder / _STATE)
    _json(folder / _INFO)
    try:
        if not state["_data_files"]:
            raise UserError(f"{folder} is empty")
        for part in state["_data_files"]:
            check_link(folder / part["filename"])
            check_regular(folder / part["filename"])
        with quiet_datasets():
            dataset = Dataset.load_from_disk(str(folder.absolute()), keep_in_memory=False)
            return dataset.with_format(None)
    except UserError:
        raise
    # A damaged file fails anywhere in `datasets` or Arrow.
    except Exception as error:
        raise UserError(f"cannot read the saved data set {folder}: {root_cause(error)}") from error


def _is_saved(folder: Path) -> bool:
    return os.path.isfile(folder / _INFO) and os.path.isfile(folder / _STATE)


def _is_plain(name: Any) -> bool:
    """Whether a name is that of a subfolder."""
    return isinstance(name, str) and name not in ("", ".", "..") and os.sep not in name


def _json(path: Path) -> Any:
    try:
        return read_json(path, _JSON_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
