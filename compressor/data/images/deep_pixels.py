"""Images of more than 8 bits a value, as 8 bits.

Pillow's `convert` cuts their values off at 255.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

#: Values of black and white.
Bounds = tuple[float, float]

#: Numbers of TIFF tags: bits of a value, meaning of 0 (0: white), and kind of number (1: unsigned).
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
#: Formats that Pillow brings to 16 bits, in mode I.
_SCALED_FORMATS = ("PNG", "PPM")
#: Pixels converted at once: floating point takes eight times their memory.
_STRIP_PIXELS = 1 << 22


def is_deep(mode: str) -> bool:
    """Whether a mode of Pillow has more than 8 bits a value: I, I;16 (any byte order) or F."""
    return mode == "F" or mode.split(";")[0] == "I"


@dataclass(frozen=True)
class NumberFormat:
    """How a deep image stores its values.

    Attributes:
        bounds: those of the format; None if any number may be black or white.
        unsigned: 32 bits without sign, which Pillow reads as signed.
        inverted: 0 is white.
    """

    bounds: Bounds | None
    unsigned: bool = False
    inverted: bool = False

    @classmethod
    def of(cls, image: Image.Image) -> NumberFormat:
        """The format of an opened image; loading may drop its tags."""
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(_BITS, (0,))[0]
        bounds: Bounds | None = None
        if image.mode.startswith("I;16"):
            bounds = (0, (1 << bits) - 1 if 8 < bits < 16 else 65535)
        elif image.mode == "I" and image.format in _SCALED_FORMATS:
            bounds = (0, 65535)
        unsigned = image.mode == "I" and bits == 32 and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1
        return cls(bounds, unsigned, tags.get(_PHOTOMETRIC, 1) == 0)

    def range(self, image: Image.Image) -> Bounds | None:
        """Smallest and largest value of a loaded image; None if any is not finite."""
        ranges = [finite_range(self._values(strip)) for strip in _strips(image)]
        known = [ends for ends in ranges if ends is not None]
        if len(known) < len(ranges):
            return None
        return min(low for low, _ in known), max(high for _, high in known)

    def to_grey(self, image: Image.Image, bounds: Bounds) -> Image.Image:
        """A loaded image in mode L.

        Raises:
            ValueError: a value is not finite.
        """
        low, high = bounds
        ends = (high, low) if self.inverted else bounds
        return Image.fromarray(np.concatenate([to_bytes(self._values(strip), ends) for strip in _strips(image)]))

    def _values(self, image: Image.Image) -> np.ndarray:
        values = np.asarray(image)
        return (values.view(np.uint32) if self.unsigned else values).astype(np.float64)


def finite_range(values: np.ndarray) -> Bounds | None:
    """Smallest and largest value; None if any is not finite."""
    return (float(values.min()), float(values.max())) if np.isfinite(values).all() else None


def to_bytes(values: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Values as 8 bits, black at the first bound.

    Raises:
        ValueError: a value is not finite.
    """
    black, white = bounds
    if not np.isfinite(values).all():
        raise ValueError("its values are not all finite numbers")
    return np.rint(np.clip((values - black) * (255 / (white - black)), 0, 255)).astype(np.uint8)


def usual_bounds(low: float, high: float) -> Bounds:
    """The usual range of values from `low` to `high` if they fill a quarter of it, else their own.

    0 to 1; whole numbers from 0 to the largest of as many bits, at least 8; −1 to 1. Interpolated values may lie a bit
    beyond a usual range: they have their own.
    """
    top = 1.0 if high <= 1 else 2.0 ** max(8, math.ceil(math.log2(high + 1))) - 1
    whole = high <= 1 or float(high).is_integer()
    if low >= 0 and whole and (high == low or high - low >= top / 4):
        return 0, top
    if -1 <= low < -0.5 and 0.5 < high <= 1:
        return -1, 1
    return low, high if high > low else low + 1


def _strips(image: Image.Image) -> list[Image.Image]:
    """Rows of an image, in parts."""
    height = max(1, _STRIP_PIXELS // image.width)
    if height >= image.height:
        return [image]
    tops = range(0, image.height, height)
    return [image.crop((0, top, image.width, min(image.height, top + height))) for top in tops]
