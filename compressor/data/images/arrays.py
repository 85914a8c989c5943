"""Images that a table holds as lists of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from compressor.data.images.deep_pixels import Bounds

#: First bytes of numpy's files.
_MAGIC = b"\x93NUMPY"
#: Channels that an image may have, as the last axis or the first.
_LAST, _FIRST = (1, 2, 3, 4), (1, 3, 4)
#: Values of black and white by type; others have none.
ARRAY_BOUNDS: dict[str, Bounds] = {"bool": (0, 1), "uint8": (0, 255), "uint16": (0, 65535)}


def encode_array(pixels: Any, dtype: np.dtype | None) -> bytes:
    """Nested lists [H, W] or [H, W, C] (or [C, H, W]) as a PNG file if of 8 bits, else as numpy's.

    `datasets` would cut other values to 8 bits.

    Raises:
        ValueError: ragged, not numbers, or no image.
    """
    array = np.asarray(pixels, dtype=dtype)
    if array.dtype.kind not in "buif":
        raise ValueError(f"an image has values of {array.dtype}")
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and array.shape[-1] not in _LAST and array.shape[0] in _FIRST:
        # As in torch.
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[-1] not in _LAST or not array.size:
        raise ValueError(f"an image has the shape {array.shape}")
    file = BytesIO()
    if array.dtype == np.uint8:
        Image.fromarray(array[..., 0] if array.shape[-1] == 1 else np.ascontiguousarray(array)).save(file, "PNG")
        return file.getvalue()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def decode_array(stored: Mapping[str, Any]) -> np.ndarray | None:
    """The array [H, W, C] of a row of `datasets.Image(decode=False)`; None if it holds a file of another kind.

    Raises:
        ValueError: damaged, or no image.
    """
    content = stored.get("bytes")
    if content is None or not content.startswith(_MAGIC):
        return None
    array = np.load(BytesIO(content), allow_pickle=False)
    if array.ndim != 3 or array.shape[-1] not in _LAST or array.dtype.kind not in "buif":
        raise ValueError(f"an array of {array.dtype} of the shape {array.shape} is no image")
    return array
