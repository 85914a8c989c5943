"""Decoding images within bounds: a few bytes may be any number of pixels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from PIL import Image, ImageOps

from compressor.utils.input_files import special_kind

#: Most pixels of an image, Pillow's bound: 13,377 × 13,377.
MAX_PIXELS = 178_956_970
#: Larger images are reduced while read.
LARGE_PIXELS = 1 << 26


def decode(stored: Mapping[str, Any] | None, mode: str) -> Image.Image:
    """The image of a row of `datasets.Image(decode=False)`, upright.

    Args:
        mode: Pillow's, such as "RGB".

    Raises:
        ValueError: none, no regular local file, or too large.
        Exception: any, by Pillow.
    """
    if stored is None:
        raise ValueError("there is none")
    with warnings.catch_warnings():
        # Pillow's lower bound only warns; larger images are refused below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(_source(stored))
    if image.format == "EPS":
        raise ValueError("EPS is a program, which is not run")
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise ValueError(f"it has {image.width} × {image.height} pixels, and more than {MAX_PIXELS} are not decoded")
    if (factor := _factor(image)) > 1:
        # Decodes a JPEG at 1/2, 1/4 or 1/8 of its size; ignores other formats.
        image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
    image.load()
    if image.getexif().get(Image.ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)
    if (factor := _factor(image)) > 1:
        # The colours of a palette cannot be averaged.
        image = (image.convert("RGB") if image.mode in ("P", "1") else image).reduce(factor)
    return image if image.mode == mode else image.convert(mode)


def _factor(image: Image.Image) -> int:
    """Factor that reduces a large image's sides."""
    return max(1, math.ceil(math.sqrt(image.width * image.height / LARGE_PIXELS)))


def _source(stored: Mapping[str, Any]) -> Any:
    """Argument of Pillow's `open`."""
    if stored.get("bytes") is not None:
        return BytesIO(stored["bytes"])
    path = stored.get("path")
    if path is None:
        raise ValueError("there is none")
    if "://" in path:
        raise ValueError("it is at an address, not in a file")
    if (kind := special_kind(path)) is not None:
        raise ValueError(f"it is {kind}, not a regular file")
    return path
