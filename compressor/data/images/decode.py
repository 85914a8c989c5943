"""Decoding images within bounds: a few bytes may be any number of pixels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from compressor.data.images.arrays import ARRAY_BOUNDS, decode_array
from compressor.data.images.deep_pixels import Bounds, NumberFormat, finite_range, is_deep, to_bytes
from compressor.utils.input_files import special_kind
from compressor.utils.out_of_memory import is_out_of_memory

#: Most pixels of an image, Pillow's bound: 13,377 × 13,377.
MAX_PIXELS = 178_956_970
#: Larger images are reduced while read.
LARGE_PIXELS = 1 << 26
#: Pillow's formats that are not read, and why.
_REFUSED = {
    "EPS": "EPS is a program, which is not run",
    "FITS": "FITS has scales of its own: save it as PNG or TIFF",
}


def decode(stored: Mapping[str, Any] | None, mode: str, find_bounds: Callable[[], Bounds] | None = None) -> Image.Image:
    """The image of a row of `datasets.Image(decode=False)`: upright, the first of several frames, without alpha.

    Args:
        mode: "RGB" or "L".
        find_bounds: values of black and white for an image whose mode has none.

    Raises:
        ValueError: none, no regular local file, too large, or values without bounds.
        Exception: any, by Pillow.
    """
    if stored is None:
        raise ValueError("there is none")
    array = decode_array(stored)
    if array is not None:
        bounds = ARRAY_BOUNDS.get(array.dtype.name) or _bounds(find_bounds, f"{array.dtype} arrays")
        pixels = to_bytes(array.astype(np.float64), bounds)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    else:
        image, numbers = _load(stored)
        if is_deep(image.mode):
            image = numbers.to_grey(image, numbers.bounds or _bounds(find_bounds, f"mode {image.mode}"))
    if (factor := _factor(image)) > 1:
        # The colours of a palette cannot be averaged.
        image = (_convert(image, "RGB") if image.mode in ("P", "PA", "1", "LAB", "HSV") else image).reduce(factor)
    return _convert(image, mode)


def decode_numbers(stored: Mapping[str, Any] | None) -> np.ndarray:
    """The whole numbers of an image of one channel as they are stored, int64 [H, W], upright; indices of a palette.

    Raises:
        ValueError: none, no regular local file, too large, colours, or fractions.
        Exception: any, by Pillow.
    """
    if stored is None:
        raise ValueError("there is none")
    array = decode_array(stored)
    if array is None:
        array = np.asarray(_load(stored, whole=True)[0])
    if array.ndim == 3 and (array.shape[-1] == 1 or (array[..., :1] == array[..., :3]).all()):
        # Greys, saved as colours.
        array = array[..., 0]
    if array.ndim != 2:
        raise ValueError("it is a picture in colours: class numbers are read from one channel (a PNG of mode L or P)")
    numbers = array.astype(np.int64)
    if not (numbers == array).all():
        raise ValueError("it holds fractions, and classes are whole numbers")
    return numbers


def free_range(stored: Mapping[str, Any] | None) -> Bounds | None:
    """Smallest and largest value of an image whose mode bounds neither; None for others and for unreadable ones."""
    try:
        array = None if stored is None else decode_array(stored)
        if array is not None:
            return None if array.dtype.name in ARRAY_BOUNDS else finite_range(array.astype(np.float64))
        if stored is None or not is_deep(_open(stored).mode):
            return None
        image, numbers = _load(stored)
        return None if numbers.bounds else numbers.range(image)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # Pillow's plugins raise almost anything; reading the image will name it.
        return None


def _bounds(find_bounds: Callable[[], Bounds] | None, values: str) -> Bounds:
    if find_bounds is None:
        raise ValueError(f"{values} have no black and white of their own")
    return find_bounds()


def _load(stored: Mapping[str, Any], *, whole: bool = False) -> tuple[Image.Image, NumberFormat]:
    """The decoded image, upright, and how it stores its values; a large one smaller unless `whole`."""
    image = _open(stored)
    numbers = NumberFormat.of(image)
    if (factor := 1 if whole else _factor(image)) > 1:
        # Decodes a JPEG at 1/2, 1/4 or 1/8 of its size; ignores other formats.
        image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
    image.load()
    if image.getexif().get(Image.ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)
    return image, numbers


def _open(stored: Mapping[str, Any]) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow's lower bound only warns; larger images are refused below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(_source(stored))
    if image.format in _REFUSED:
        raise ValueError(_REFUSED[image.format])
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has {image.width} × {image.height} pixels, and more than {MAX_PIXELS} are not decoded")
    return image


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """An image in mode RGB or L; colours under transparency stay as they are stored."""
    if image.mode == mode:
        return image
    # Steps that Pillow does not find, or warns of leaving out.
    steps = {"LAB": "RGB", "La": "LA", "P": "RGBA" if "transparency" in image.info else "P"}
    return image.convert(steps.get(image.mode, image.mode)).convert(mode)


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
