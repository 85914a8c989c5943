"""Splits of files, image folders, the bundled digits or Hub datasets."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

from compressor.data.files.coco_folders import are_annotations, read_annotations
from compressor.data.files.folders import IMAGE_SUFFIXES, SOUND_SUFFIXES, check_name, walk
from compressor.data.files.mask_folders import are_pairs, find_pairs, read_pairs
from compressor.data.files.packed_files import DATA_ENDINGS, DATA_FORMATS, PLAIN, data_suffix
from compressor.data.files.saved_datasets import read_saved, saved_folders
from compressor.data.files.tables import check_tables, read_tables
from compressor.errors import UserError
from compressor.models.builtin import CLASSES, digits
from compressor.utils.logging import quiet_datasets, root_cause
from compressor.wording import shorten

BUILTIN_DATA = ("digits",)
#: The split of files whose names are of no split.
UNNAMED = "all"

#: Metadata of data sets, no data.
_METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")

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
    check_name(source)
    path = Path(os.path.expanduser(source))
    # Methods of Path raise on names that are too long.
    if os.path.isdir(path):
        return _folder(path)
    if os.path.lexists(path):
        return _tables([path])
    if source in BUILTIN_DATA:
        return {"train": RawSplit(partial(_digits, "train")), "test": RawSplit(partial(_digits, "test"))}
    if re.search(r"[,*?\[]", source):
        return _listed(source)
    if data_suffix(path) or source.startswith((".", "~", os.sep)) or source.count("/") > 1:
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
    if saved := saved_folders(root):
        names = {name: _split_of((name,)) or name for name in saved}
        return {names[name]: RawSplit(partial(read_saved, folder), folder) for name, folder in saved.items()}
    annotations = [file for file in walk(root, (".json",)) if are_annotations(file)]
    images = list(walk(root, IMAGE_SUFFIXES)) if annotations else []
    if images:
        splits = {_split_of((file.stem, *file.relative_to(root).parent.parts)) or UNNAMED: file for file in annotations}
        return {name: RawSplit(partial(read_annotations, file, images)) for name, file in splits.items()}
    tables, images, notes = _sorted_files(root)
    if notes and not tables and not images:
        return _tables(notes, root)
    if are_pairs(root, images):
        return _tables(tables, root) if tables else _pair_splits(root, images)
    by_split = _image_splits(root, images)
    classes = sorted({name for files in by_split.values() for name, _ in files if name is not None}, key=_class_order)
    # A table next to images without class folders holds their labels.
    if tables and (not images or len(classes) < 2):
        return _tables(tables, root)
    if not images:
        raise UserError(f"no data in {root}: neither images, sounds nor {', '.join(DATA_FORMATS)} files")
    return {split: RawSplit(partial(_images, files, classes)) for split, files in by_split.items()}


def _sorted_files(root: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Tables, images (or sounds) and notes of a folder."""
    tables: list[Path] = []
    images: list[Path] = []
    sounds: list[Path] = []
    values: list[Path] = []
    texts: list[Path] = []
    for file in walk(root, (*DATA_ENDINGS, *IMAGE_SUFFIXES, *SOUND_SUFFIXES)):
        suffix = data_suffix(file)
        if not suffix:
            (sounds if file.name.lower().endswith(SOUND_SUFFIXES) else images).append(file)
        elif suffix != ".json" or _SPLIT.fullmatch(file.name.split(".")[0]):
            (texts if suffix == PLAIN else tables).append(file)
        elif file.name not in _METADATA:
            values.append(file)
    images = images or sounds
    # Next to other data, .json files that name no split are notes, as plain text is.
    return (tables, images, texts) if tables or images or not values else (values, images, texts)


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
    suffix = check_tables(files)
    return RawSplit(partial(read_tables, files, suffix), files[0].parent, lines=suffix == PLAIN)


def _image_splits(root: Path, images: list[Path]) -> dict[str, list[tuple[str | None, Path]]]:
    """(class or None, image or sound) by split."""
    placed = [(file.relative_to(root).parts, file) for file in images]
    tops = {parts[0] for parts, _ in placed if len(parts) > 1}
    if tops and all(_SPLIT.fullmatch(top) for top in tops) and all(len(parts) > 1 for parts, _ in placed):
        splits: dict[str, list[tuple[str | None, Path]]] = {}
        for parts, file in placed:
            name = parts[1] if len(parts) > 2 else None
            splits.setdefault(_split_of(parts) or UNNAMED, []).append((name, file))
        return splits
    return {UNNAMED: [(parts[0] if len(parts) > 1 else None, file) for parts, file in placed]} if placed else {}


def _pair_splits(root: Path, images: list[Path]) -> dict[str, RawSplit]:
    """Images and their masks by split."""
    splits: dict[str, list[tuple[Path, Path]]] = {}
    for folder, files in find_pairs(root, images).items():
        splits.setdefault(_split_of(folder.parts) or UNNAMED, []).extend(files)
    return {split: RawSplit(partial(read_pairs, files)) for split, files in splits.items()}


def _class_order(name: str) -> tuple[int, str]:
    """Key that sorts names, numbers by value."""
    return (len(name), name) if name.isdecimal() else (1 << 16, name)


def _images(files: list[tuple[str | None, Path]], classes: list[str]) -> Dataset:
    # Files are sorted by class: shuffle, so that first samples are of all classes.
    files = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
    sounds = files[0][1].name.lower().endswith(SOUND_SUFFIXES)
    name = "audio" if sounds else "image"
    columns: dict[str, list] = {name: [str(file) for _, file in files]}
    features = {name: Value("string") if sounds else Image()}
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
