"""Splits of files, image folders, the bundled digits or Hub datasets."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

from compressor.data.table_checks import check_table
from compressor.errors import UserError
from compressor.models.builtin import CLASSES, digits
from compressor.utils.input_files import check_regular
from compressor.utils.logging import quiet_datasets, root_cause
from compressor.wording import shorten

#: Suffix of a file -> the builder of `datasets` for it.
DATA_FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".txt": "text"}
#: Plain text; next to tables or images it is a note.
PLAIN = ".txt"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
BUILTIN_DATA = ("digits",)
#: The split of files whose names are of no split.
UNNAMED = "all"

#: Cells that make a first line a header.
_TITLES = {"text", "sentence", "sentence1", "sentence2", "label", "labels", "image", "file_name", "path"}

_SPLIT = re.compile(r"(?<![a-z])(train|test|val|dev|eval)(ing|id|idation|el|uation|set)?(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class RawSplit:
    """An unread split.

    Attributes:
        base: folder of relative image paths.
        lines: whether rows are lines of one text.
    """

    read: Callable[[], Dataset]
    base: Path | None = None
    lines: bool = False


def find_splits(source: str) -> dict[str, RawSplit]:
    """The unread splits of a source.

    Files and folders named train, test, val, eval or dev name a split; others are `UNNAMED`.

    Raises:
        UserError: missing, unreadable, or mixed formats.
    """
    path = Path(source).expanduser()
    # Methods of Path raise on names that are too long.
    if os.path.isdir(path):
        return _folder(path)
    if os.path.exists(path):
        return _tables([path])
    if source in BUILTIN_DATA:
        return {"train": RawSplit(partial(_digits, "train")), "test": RawSplit(partial(_digits, "test"))}
    if re.search(r"[,*?\[]", source):
        return _listed(source)
    if path.suffix.lower() in DATA_FORMATS or source.startswith((".", "~", os.sep)) or source.count("/") > 1:
        raise UserError(f"no data at {source}: there is no such file or folder")
    return _hub(source)


def _listed(source: str) -> dict[str, RawSplit]:
    files: list[Path] = []
    for part in (part.strip() for part in source.split(",")):
        matches = sorted(glob.glob(os.path.expanduser(part)))
        if not matches:
            raise UserError(f"no data at {part}: no file matches")
        files += [Path(name) for name in matches]
    # Files that the user names are never left out.
    return _tables(files) if all(_split_of((file.stem,)) for file in files) else {UNNAMED: _table(files)}


def _folder(root: Path) -> dict[str, RawSplit]:
    tables: list[Path] = []
    images: list[Path] = []
    notes: list[Path] = []
    for file in _walk(root):
        suffix = file.suffix.lower()
        if suffix in DATA_FORMATS:
            (notes if suffix == PLAIN else tables).append(file)
        elif suffix in IMAGE_SUFFIXES:
            images.append(file)
    if notes and not tables and not images:
        return _tables(notes, root)
    by_split = _image_splits(root, images)
    classes = sorted({name for files in by_split.values() for name, _ in files if name is not None})
    # A table next to images without class folders holds their labels.
    if tables and (not images or len(classes) < 2):
        return _tables(tables, root)
    if not images:
        raise UserError(f"no data in {root}: neither images nor {', '.join(DATA_FORMATS)} files")
    return {split: RawSplit(partial(_images, files, classes)) for split, files in by_split.items()}


def _walk(root: Path) -> Iterator[Path]:
    """Visible tables and images below a folder, files before subfolders.

    Raises:
        UserError: a pipe, socket or device.
    """
    entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith(".") or entry.is_dir() or suffix not in DATA_FORMATS.keys() | IMAGE_SUFFIXES:
            continue
        # False for links to special files too.
        if not entry.is_file():
            check_regular(entry.path)
        yield root / entry.name
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith((".", "__")):
            yield from _walk(root / entry.name)


def _split_of(parts: Iterable[str]) -> str | None:
    """The split that the parts of a path name."""
    for part in parts:
        if match := _SPLIT.search(part):
            name = match[1].lower()
            return "validation" if name in ("val", "eval") else name
    return None


def _tables(files: list[Path], root: Path | None = None) -> dict[str, RawSplit]:
    """Files by split; unnamed ones count only if all are."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        inner = file.relative_to(root).parent.parts if root else ()
        splits.setdefault(_split_of((file.stem, *inner)) or "", []).append(file)
    unnamed = splits.pop("", [])
    if not splits:
        return {UNNAMED: _table(unnamed)}
    return {split: _table(group) for split, group in splits.items()}


def _table(files: list[Path]) -> RawSplit:
    suffixes = sorted({file.suffix.lower() for file in files})
    unknown = [suffix for suffix in suffixes if suffix not in DATA_FORMATS]
    if unknown:
        raise UserError(f"cannot read {files[0]}: known formats are {', '.join(DATA_FORMATS)}, or a folder of images")
    if len(suffixes) > 1:
        raise UserError(
            f"{files[0].parent} mixes {' and '.join(suffixes)} files: name those to read, as in 'folder/*.csv'"
        )
    for file in files:
        check_table(file)
    return RawSplit(partial(_read_table, files, suffixes[0]), files[0].parent, lines=suffixes[0] == PLAIN)


def _read_table(files: list[Path], suffix: str) -> Dataset:
    if all(file.stat().st_size == 0 for file in files):
        raise UserError(f"{files[0]} is empty")
    options: dict = {}
    if DATA_FORMATS[suffix] == "csv":
        # An empty cell is a missing value; the word "None" is text.
        options = {"keep_default_na": False, "na_values": [""]}
    if suffix == PLAIN:
        options = {"keep_linebreaks": True}
    try:
        if suffix == ".tsv":
            options |= {"sep": "\t", "quoting": 3} | _header(files[0])
        with quiet_datasets():
            names = [glob.escape(str(file.absolute())) for file in files]
            return datasets.load_dataset(DATA_FORMATS[suffix], data_files={"train": names}, split="train", **options)
    except Exception as error:
        if "corresponds to no data" in str(error):
            raise UserError(f"{files[0]} is empty: it has columns but no rows") from None
        raise UserError(f"cannot read {', '.join(str(file) for file in files[:3])}: {root_cause(error)}") from error


def _header(file: Path) -> dict:
    """Options of a tab-separated file; a header has a known title, or neither numbers nor sentences."""
    with file.open(encoding="utf-8") as lines:
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


def _image_splits(root: Path, images: list[Path]) -> dict[str, list[tuple[str | None, Path]]]:
    """(class or None, image) by split."""
    placed = [(file.relative_to(root).parts, file) for file in images]
    tops = {parts[0] for parts, _ in placed if len(parts) > 1}
    if tops and all(_SPLIT.fullmatch(top) for top in tops) and all(len(parts) > 1 for parts, _ in placed):
        splits: dict[str, list[tuple[str | None, Path]]] = {}
        for parts, file in placed:
            name = parts[1] if len(parts) > 2 else None
            splits.setdefault(_split_of(parts) or UNNAMED, []).append((name, file))
        return splits
    return {UNNAMED: [(parts[0] if len(parts) > 1 else None, file) for parts, file in placed]} if placed else {}


def _images(files: list[tuple[str | None, Path]], classes: list[str]) -> Dataset:
    # Files are sorted by class: shuffle, so that first samples are of all classes.
    files = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
    columns: dict[str, list] = {"image": [str(file) for _, file in files]}
    features = {"image": Image()}
    named = [name for name, _ in files if name is not None]
    if named and len(named) < len(files):
        loose = next(file for name, file in files if name is None)
        raise UserError(f"{loose} lies beside class folders: move it into one, or away")
    if named and len(classes) > 1:
        columns["label"] = named
        features["label"] = ClassLabel(names=classes)
    return Dataset.from_dict(columns, features=Features(features))


def _digits(role: str) -> Dataset:
    from PIL import Image as Pillow

    images, labels = digits("train" if role == "train" else "test")
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})
    columns = {"image": [Pillow.fromarray(image) for image in images], "label": labels}
    return Dataset.from_dict(columns, features=features)


def _hub(source: str) -> dict[str, RawSplit]:
    missing = f"no data '{shorten(source)}': no such file or folder, not built in ({', '.join(BUILTIN_DATA)}), and"
    try:
        # One request: without network, datasets retries for half a minute.
        HfApi().dataset_info(source, timeout=10)
    except OfflineModeIsEnabled:
        # Use the cached copy.
        pass
    except HFValidationError:
        raise UserError(f"{missing} it is no valid Hub id") from None
    except Exception as error:
        raise UserError(f"{missing} not reachable on the Hub: {root_cause(error)}") from error
    try:
        with quiet_datasets():
            names = datasets.get_dataset_split_names(source)
    except Exception as error:
        raise UserError(f"{missing} not usable from the Hub: {root_cause(error)}") from error
    return {name: RawSplit(partial(_read_hub, source, name)) for name in names}


def _read_hub(source: str, split: str) -> Dataset:
    try:
        with quiet_datasets():
            return datasets.load_dataset(source, split=split)
    except Exception as error:
        raise UserError(f"cannot read {source}, split {split}: {root_cause(error)}") from error
