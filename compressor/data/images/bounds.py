"""Black and white of images whose mode has neither, once per data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from datasets import Dataset, Image

from compressor.data.images.decode import free_range
from compressor.data.images.deep_pixels import Bounds, usual_bounds

#: Images read at once.
_CHUNK = 64


class ImageBounds:
    """The usual range that holds the values of all images of a data set.

    They are read when the first of them is met.

    Args:
        splits: gives the data sets of all roles, with the image column `name`.
    """

    def __init__(self, splits: Callable[[], Iterable[Dataset]], name: str, source: str) -> None:
        self._splits, self._name, self._source = splits, name, source

    def __call__(self) -> Bounds:
        """Values of black and white."""
        return self._found[0]

    @property
    def notes(self) -> list[str]:
        """A line if any image needed them."""
        if "_found" not in self.__dict__:
            return []
        (black, white), count = self._found
        return [
            f"{self._source} has {count} image{'s' if count > 1 else ''} of 32-bit or floating-point values, which "
            f"name no black and white: {black:.10g} was read as black and {white:.10g} as white"
        ]

    @cached_property
    def _found(self) -> tuple[Bounds, int]:
        """Bounds, and the number of images that have none."""
        ranges = [ends for dataset in self._splits() for ends in _ranges(dataset, self._name)]
        low, high = min((low for low, _ in ranges), default=0), max((high for _, high in ranges), default=1)
        return usual_bounds(low, high), len(ranges)


def _ranges(dataset: Dataset, name: str) -> Iterable[Bounds]:
    samples = dataset.select_columns([name]).cast_column(name, Image(decode=False))
    for start in range(0, len(samples), _CHUNK):
        for stored in samples[start : start + _CHUNK][name]:
            if (ends := free_range(stored)) is not None:
                yield ends
