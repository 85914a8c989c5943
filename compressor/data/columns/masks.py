"""Columns of images with masks."""

from __future__ import annotations

from datasets import Dataset, Image

from compressor.data.columns.by_name import find_image, list_columns
from compressor.data.columns.by_task import ColumnRequest
from compressor.data.files.folders import IMAGE_SUFFIXES
from compressor.data.split import Split, column
from compressor.errors import UserError

#: Names of columns of masks, best first.
MASKS = (
    "mask", "masks", "annotation", "annotations", "segmentation_mask", "semantic_mask", "seg_map", "segmentation",
    "semantic_segmentation", "label", "labels", "target",
)  # fmt: skip


def find_masked(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """An image, and its mask if there is one.

    Raises:
        UserError: no image, or ambiguous.
    """
    options = request.options
    mask = options.label_column
    if mask is not None and mask not in dataset.column_names:
        raise UserError(f"{where} has no mask column '{mask}': {list_columns(dataset)}")
    if mask is None:
        named = {name.lower(): name for name in dataset.column_names if _may_be_mask(dataset, name)}
        mask = next((named[name] for name in MASKS if name in named), None)
    others = dataset if mask is None else dataset.select_columns([n for n in dataset.column_names if n != mask])
    image = find_image(others, options.image_column, where)
    if image is None:
        raise UserError(f"{where} has no image column (data.image_column, --image-column): {list_columns(dataset)}")
    return Split(dataset, image, mask, (), where, masks=True)


def _may_be_mask(dataset: Dataset, name: str) -> bool:
    """Whether a column holds images, paths of images, or arrays."""
    feature = dataset.features[name]
    if isinstance(feature, Image) or (isinstance(feature, dict) and "bytes" in feature):
        return True
    if getattr(feature, "dtype", None) in ("string", "large_string"):
        first = next((value for value in column(dataset.select(range(min(8, len(dataset)))), name) if value), "")
        return first.lower().endswith(IMAGE_SUFFIXES)
    # A list of lists of numbers.
    return not isinstance(feature, dict) and getattr(getattr(feature, "feature", None), "feature", None) is not None
