"""Tables in files."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from compressor.data.domains import join_files
from compressor.data.files.folders import check_link, check_name
from compressor.data.files.json_tables import read_json_tables
from compressor.data.files.packed_files import BINARY, DATA_FORMATS, PACKED, PLAIN, data_suffix, open_unpacked
from compressor.data.files.table_checks import check_table
from compressor.errors import UserError
from compressor.utils.logging import quiet_datasets, root_cause

#: Cells that make a first line a header.
_TITLES = {"text", "sentence", "sentence1", "sentence2", "label", "labels", "image", "file_name", "path"}


def check_tables(files: Sequence[Path]) -> str:
    """Refuse files of unknown or several formats, and costly ones; their common suffix.

    Raises:
        UserError: names a file.
    """
    for file in files:
        check_link(file)
        check_name(str(file))
    suffixes = {data_suffix(file): file for file in files}
    if "" in suffixes:
        raise UserError(
            f"cannot read {suffixes['']}: known formats are {', '.join(DATA_FORMATS)} (all but {' and '.join(BINARY)} "
            f"also with {', '.join(PACKED)}), or a folder of images"
        )
    if len(suffixes) > 1:
        raise UserError(
            f"{files[0].parent} mixes {' and '.join(sorted(suffixes))} files: name those to read, as in 'folder/*.csv'"
        )
    for file in files:
        check_table(file)
    (suffix,) = suffixes
    return suffix


def read_tables(files: Sequence[Path], suffix: str) -> Dataset:
    """The rows of checked files.

    Raises:
        UserError: unreadable or empty.
    """
    try:
        if all(_is_empty(file) for file in files):
            raise UserError(f"{files[0]} is empty")
        if suffix == ".json":
            return read_json_tables(files)
        options = _options(files[0], suffix)
        if suffix != PLAIN or len(files) == 1:
            return _load(files, suffix, options)
        filled = [file for file in files if not _is_empty(file)]
        return join_files(filled, [_load([file], suffix, options) for file in filled])
    except UserError:
        raise
    # The builders raise almost anything.
    except Exception as error:
        if "corresponds to no data" in str(error):
            raise UserError(f"{files[0]} is empty: it has columns but no rows") from None
        raise UserError(f"cannot read {', '.join(str(file) for file in files[:3])}: {root_cause(error)}") from error


def _load(files: Sequence[Path], suffix: str, options: dict[str, Any]) -> Dataset:
    names = [glob.escape(str(file.absolute())) for file in files]
    with quiet_datasets():
        return datasets.load_dataset(DATA_FORMATS[suffix], data_files={"train": names}, split="train", **options)


def _is_empty(file: Path) -> bool:
    with open_unpacked(file) as content:
        return not content.read(1)


def _options(file: Path, suffix: str) -> dict[str, Any]:
    """Options of the builder."""
    if suffix == PLAIN:
        return {"keep_linebreaks": True}
    if DATA_FORMATS[suffix] != "csv":
        return {}
    # An empty cell is a missing value; the word "None" is text.
    options = {"keep_default_na": False, "na_values": [""]}
    return options | {"sep": "\t", "quoting": 3} | _header(file) if suffix == ".tsv" else options


def _header(file: Path) -> dict[str, Any]:
    """Options of a tab-separated file; a header has a known title, or neither numbers nor sentences."""
    with open_unpacked(file, mode="rt", encoding="utf-8-sig") as lines:
        cells = lines.readline().rstrip("\r\n").split("\t")
    numbers = [index for index, cell in enumerate(cells) if re.fullmatch(r"-?\d+", cell)]
    if any(cell.strip().lower() in _TITLES for cell in cells):
        return {}
    if not numbers and not any(len(cell.split()) > 3 for cell in cells):
        return {}
    names = [f"column{i}" for i in range(len(cells))]
    if len(cells) in (2, 3) and len(numbers) < 2:
        label = numbers[0] if numbers else len(cells) - 1
        texts = iter(("text",) if len(cells) == 2 else ("sentence1", "sentence2"))
        names = ["label" if index == label else next(texts) for index in range(len(cells))]
    return {"header": None, "names": names}
