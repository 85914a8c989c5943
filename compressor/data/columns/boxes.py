"""Columns of images with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value

from compressor.data.columns.by_name import find_image, list_columns
from compressor.data.columns.by_task import ColumnRequest
from compressor.data.columns.labels import label_translator
from compressor.data.split import Split, column
from compressor.errors import UserError

#: Names of the column of objects, of their boxes and of their classes, best first.
_OBJECTS = ("objects", "annotations", "annotation", "labels", "target")
_BOXES = ("bbox", "bboxes", "boxes", "box")
_CLASSES = (
    "category", "categories", "category_id", "category_ids", "label", "labels", "class", "classes", "class_labels",
)  # fmt: skip
#: The column that is made of them: for each object its class number, then left, top, width and height in pixels.
MADE = "class_and_box"


def find_boxed(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """An image, and its objects if they are known.

    Objects are a column of {boxes, classes}, one list each, or of lists of {box, class}; or two columns.  Boxes are
    left, top, width and height in pixels, as COCO has them.

    Raises:
        UserError: no image, an unknown class, boxes without classes, or boxes of another form.
    """
    option = request.options.label_column
    if option is not None and option not in dataset.column_names:
        raise UserError(f"{where} has no column '{option}' of objects: {list_columns(dataset)}")
    image = find_image(dataset, request.options.image_column, where)
    if image is None:
        raise UserError(f"{where} has no image column (data.image_column, --image-column): {list_columns(dataset)}")
    objects = option or _named(dataset.column_names, _OBJECTS)
    if objects is None and _named(dataset.column_names, _BOXES) is None:
        return Split(dataset, image, None, (), where, boxes=True)
    boxes, classes, names = _columns(dataset, objects, where)
    flat = [value for row in classes for value in row]
    translate = label_translator(flat, names, request.id2label)
    rows = [
        _rows(*each, translate, f"row {row} of {where}") for row, each in enumerate(zip(boxes, classes, strict=True))
    ]
    kept = dataset.select_columns([image])
    feature = Features({MADE: List(List(Value("float32")))})
    made = Dataset.from_dict({MADE: rows}, features=feature)
    return Split(kept.add_column(MADE, made[MADE], feature=feature[MADE]), image, MADE, (), where, boxes=True)


def _columns(dataset: Dataset, objects: str | None, where: str) -> tuple[list[Any], list[Any], list[str] | None]:
    """Boxes and classes of every image, and the names of classes that are numbers, if known."""
    if objects is None:
        box, label = (_named(dataset.column_names, names) for names in (_BOXES, _CLASSES))
        if box is None or label is None:
            raise UserError(f"{where} has boxes without classes ({', '.join(_CLASSES)}): {list_columns(dataset)}")
        feature: Any = dataset.features[label]
        return column(dataset, box), column(dataset, label), _names(feature)
    values, feature = column(dataset, objects), dataset.features[objects]
    # Sequences of structures are stored as structures of sequences.
    inner = feature if isinstance(feature, dict) else getattr(feature, "feature", None)
    fields = list(inner) if isinstance(inner, Mapping) else []
    box, label = _named(fields, _BOXES), _named(fields, _CLASSES)
    if box is None or label is None:
        raise UserError(
            f"column '{objects}' of {where} does not hold objects with a box ({', '.join(_BOXES)}) and a class "
            f"({', '.join(_CLASSES)}) each: {', '.join(fields) or feature}"
        )
    assert isinstance(inner, Mapping)
    if isinstance(feature, dict):
        pairs = [(value[box] or [], value[label] or []) if value else ([], []) for value in values]
    else:
        pairs = [([each[box] for each in value or []], [each[label] for each in value or []]) for value in values]
    return [boxes for boxes, _ in pairs], [classes for _, classes in pairs], _names(inner[label])


def _rows(boxes: Any, classes: Any, translate: Any, where: str) -> list[list[float]]:
    """One image's objects: class number and box."""
    boxes, classes = boxes or [], classes or []
    if len(boxes) != len(classes):
        raise UserError(f"{where} has {len(boxes)} boxes and {len(classes)} classes")
    rows = []
    for box, name in zip(boxes, classes, strict=True):
        if not isinstance(box, list) or len(box) != 4 or any(value is None for value in box):
            raise UserError(f"{where} has a box that is not left, top, width and height: {box}")
        try:
            rows.append([float(translate(name)), *map(float, box)])
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    return rows


def _names(feature: Any) -> list[str] | None:
    inner = feature if isinstance(feature, ClassLabel) else getattr(feature, "feature", None)
    return list(inner.names) if isinstance(inner, ClassLabel) else None


def _named(columns: list[str], names: tuple[str, ...]) -> str | None:
    known = {name.lower(): name for name in columns}
    return next((known[name] for name in names if name in known), None)
