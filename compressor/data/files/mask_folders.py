"""Folders of images with folders of masks beside them, file by file of one name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset, Features, Image

from compressor.errors import UserError

#: {name of a folder: what it holds}.
_KINDS = {
    **dict.fromkeys(("images", "image", "imgs", "img"), "image"),
    **dict.fromkeys(("masks", "mask", "annotations", "annotation", "segmentations", "labels"), "mask"),
}


def are_pairs(root: Path, images: Sequence[Path]) -> bool:
    """Whether all files below `root` are in folders of images and of masks, and some in both."""
    return {_kind(root, file) for file in images} == {"image", "mask"}


def find_pairs(root: Path, images: Sequence[Path]) -> dict[Path, list[tuple[Path, Path]]]:
    """(image, mask) pairs by the path below `root` without the name of their folder.

    root/images/train/a.jpg and root/masks/train/a.png are a pair of "train", as are root/train/images/a.jpg and
    root/train/masks/a.png.

    Args:
        images: as of `are_pairs`.

    Raises:
        UserError: an image without a mask, a mask without an image, or several of one name.
    """
    kinds: dict[str, dict[Path, Path]] = {"image": {}, "mask": {}}
    for file in images:
        parts = file.relative_to(root).parts
        place = next(index for index, part in enumerate(parts) if part.lower() in _KINDS)
        rest = Path(*parts[:place], *parts[place + 1 : -1], file.stem)
        other = kinds[_KINDS[parts[place].lower()]].setdefault(rest, file)
        if other != file:
            raise UserError(f"{other} and {file} have one name, so it is not known which belongs to the other folder")
    _check_alone(kinds["image"], kinds["mask"], "mask")
    _check_alone(kinds["mask"], kinds["image"], "image")
    pairs: dict[Path, list[tuple[Path, Path]]] = {}
    for name, file in kinds["image"].items():
        pairs.setdefault(name.parent, []).append((file, kinds["mask"][name]))
    return pairs


def read_pairs(pairs: Sequence[tuple[Path, Path]]) -> Dataset:
    """The columns "image" and "mask"."""
    columns = {"image": [str(image) for image, _ in pairs], "mask": [str(mask) for _, mask in pairs]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "mask": Image()}))


def _check_alone(files: Mapping[Path, Path], others: Mapping[Path, Path], kind: str) -> None:
    alone = [file for name, file in files.items() if name not in others]
    if alone:
        more = f", as {len(alone) - 1} more" if len(alone) > 1 else ""
        raise UserError(f"{alone[0]} has no {kind} of its name{more}: every image needs a mask and every mask an image")


def _kind(root: Path, file: Path) -> str | None:
    return next((_KINDS[part.lower()] for part in file.relative_to(root).parts[:-1] if part.lower() in _KINDS), None)
