"""Folders of images with annotations in a JSON file, as COCO and Roboflow write them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, List, Value

from compressor.errors import UserError
from compressor.utils.input_files import MIB, read_json

#: Names of such files.
ANNOTATION_FILES = ("instances_*.json", "*coco*.json", "annotations*.json")
#: Most bytes of one that are read; COCO's own has 450 MB.
_MOST_BYTES = 1024 * MIB


def are_annotations(file: Path) -> bool:
    """Whether a file is annotations by its name."""
    return any(fnmatch.fnmatch(file.name.lower(), name) for name in ANNOTATION_FILES)


def read_annotations(file: Path, images: Sequence[Path]) -> Dataset:
    """The columns "image" and "objects": boxes (left, top, width and height in pixels) and categories of each image.

    Crowds, which are no single object, are left out.

    Args:
        images: files, of which the nearest to the annotations with a name in it counts.

    Raises:
        UserError: no such annotations, or an image that is missing.
    """
    try:
        content: Any = read_json(file, _MOST_BYTES)
        names = {each["id"]: str(each["name"]) for each in content["categories"]}
        objects: dict[Any, list[Mapping[str, Any]]] = {each["id"]: [] for each in content["images"]}
        for each in content["annotations"]:
            if not each.get("iscrowd"):
                objects[each["image_id"]].append(each)
        categories = [[names[each["category_id"]] for each in own] for own in objects.values()]
        boxes = [[list(map(float, each["bbox"])) for each in own] for own in objects.values()]
        paths = [_path(str(each["file_name"]), file, images) for each in content["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is not annotations as COCO has them (images, annotations, categories): {error}"
        ) from None
    classes = ClassLabel(names=list(dict.fromkeys(names.values())))
    features = Features({
        "image": Image(), "objects": {"bbox": List(List(Value("float32"))), "category": List(classes)},
    })  # fmt: skip
    rows = [{"bbox": own, "category": kinds} for own, kinds in zip(boxes, categories, strict=True)]
    return Dataset.from_dict({"image": paths, "objects": rows}, features=features)


def _path(name: str, annotations: Path, images: Sequence[Path]) -> str:
    """The image of that name, whose path has most in common with the annotations'."""
    direct = annotations.parent / name
    if direct in images:
        return str(direct)
    parts = Path(name).parts
    found = [file for file in images if file.parts[-len(parts) :] == parts]
    if not found:
        raise UserError(f"{annotations} names the image {name}, which is not in the folder")
    words = {part for each in annotations.parts for part in each.lower().replace(".", "_").split("_")}
    return str(max(found, key=lambda file: sum(part.lower() in words for part in file.parts)))
