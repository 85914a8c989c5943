"""Random inputs for any ONNX file; imports only numpy, for a small process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from compressor.errors import UnsupportedError

#: ONNX Runtime's names of element types.
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
#: The axis of keys and values [B, heads, P, channels] that counts tokens of the past.
PAST_AXIS = 2
#: Upper bound of token ids if no config gives a vocabulary size; every vocabulary is larger.
_SMALLEST_VOCABULARY = 8


class Entry(NamedTuple):
    """An input: name, sizes (dynamic: name or None), type."""

    name: str
    shape: Sequence[int | str | None]
    type: str


def make_feed(
    entries: Sequence[Entry], batch: int, length: int, config: Mapping[str, Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Random inputs by name: `length` tokens without a past; of a decoder of an encoder, one token after `length`.

    Raises:
        UnsupportedError: unknown type of an input.
    """
    config = config or {}
    random = np.random.default_rng(seed)
    # The past of the file of a causal model is empty in its first call, which reads the whole text.
    past = any(entry.name.startswith("past_key_values") and ".encoder." in entry.name for entry in entries)
    feed: dict[str, Any] = {}
    for entry in entries:
        if entry.type not in _TYPES:
            raise UnsupportedError(f"the input {entry.name} is of {entry.type}, which cannot be made up")
        dtype = _TYPES[entry.type]
        shape = [
            size if isinstance(size, int) and size > 0 else _size(entry.name, index, size, batch, length, past, config)
            for index, size in enumerate(entry.shape)
        ]
        if "mask" in entry.name:
            feed[entry.name] = np.ones(shape, dtype)
        elif "position" in entry.name:
            start = length if past else 0
            feed[entry.name] = np.broadcast_to(np.arange(start, start + shape[-1]), shape).astype(dtype)
        elif "token_type" in entry.name:
            feed[entry.name] = np.zeros(shape, dtype)
        elif np.issubdtype(dtype, np.integer):
            tokens = int(config.get("vocab_size") or _SMALLEST_VOCABULARY)
            feed[entry.name] = random.integers(0, tokens, shape).astype(dtype)
        else:
            feed[entry.name] = random.standard_normal(shape).astype(dtype)
    return feed


def _size(
    name: str, index: int, axis: int | str | None, batch: int, length: int, past: bool, config: Mapping[str, Any]
) -> int:
    axis = (axis or "").lower() if isinstance(axis, str) else ""
    if index == 0 or "batch" in axis:
        return batch
    if name == "pixel_values":
        return _image_size(index, config)
    if not past:
        return 0 if name.startswith("past_key_values") and index == PAST_AXIS else length
    if "total" in axis or "+" in axis or "mask" in name:
        return length if "encoder" in name else length + 1
    return length if name.startswith("past_key_values") or "encoder" in axis else 1


def _image_size(index: int, config: Mapping[str, Any]) -> int:
    if index == 1:
        return int(config.get("num_channels") or 3)
    size = config.get("image_size") or 224
    return int(size[index - 2] if isinstance(size, list | tuple) else size)
