"""Refusing quantised models: their rounded weights are no ground to fuse, refit or export from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from compressor.errors import UserError
from compressor.wording import shorten

#: Fields of a config: of transformers (bitsandbytes, GPTQ, AWQ, FP8, torchao, HQQ, ...), of older compressed-tensors,
#: and of MLX.
_FIELDS = ("quantization_config", "compression_config", "quantization")
#: Files in which tools outside transformers keep it: AutoGPTQ, AutoAWQ, ModelOpt, optimum-quanto.
_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", "quanto_qmap.json")
#: Fields with a number of bits.
_BITS = ("bits", "w_bit", "nbits", "weight_bits", "wbits")
#: Nested configs that are searched.
_MAX_LEVELS = 8
#: Whole numbers that stand for weights; other tensors of them (masks, positions) are buffers.
_ROUNDED = re.compile(r"(^|[._])(q?weight(_packed|_int\d+)?|qzeros|SCB|absmax|scales_and_zeros)$")
_SMALL_FLOATS = ("F8", "F6", "F4")
_INTEGERS = ("I", "U")


def check_not_quantised(location: object, values: Any, files: Iterable[str] = ()) -> None:
    """Refuse a quantised model by its config's values and the names of its files.

    Raises:
        UserError: names the method.
    """
    found = _description(values)
    if found is None:
        found = next((name for name in _FILES if name in files), None)
    if found is not None:
        raise UserError(_refusal(location, found))


def check_stored_types(folder: Path, files: Iterable[Path]) -> None:
    """Refuse weights stored in types of quantised models, whatever the config says.

    Loading would take them for plain numbers.

    Raises:
        UserError: names the first weight and its type.
    """
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                types = {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
        # Broken files are refused when they are read, in other words.
        except (SafetensorError, OSError):
            continue
        for name, kind in types.items():
            if kind.startswith(_SMALL_FLOATS) or (kind.startswith(_INTEGERS) and _ROUNDED.search(name)):
                raise UserError(_refusal(folder, f"{shorten(name)} is stored as {kind}"))


def _refusal(location: object, found: str) -> str:
    return f"{location} is quantised ({found}): give the full-precision model that it was made from"


def _description(values: Any, levels: int = _MAX_LEVELS) -> str | None:
    """Method and bits of a config or one nested in it; None if it is not quantised."""
    if not isinstance(values, Mapping) or not levels:
        return None
    for field in _FIELDS:
        about = values.get(field)
        if isinstance(about, Mapping) and about:
            return _method(field, about)
    return next((text for inner in values.values() if (text := _description(inner, levels - 1))), None)


def _method(field: str, about: Mapping[str, Any]) -> str:
    """Such as "gptq, 4 bits"."""
    names = (about.get(key) for key in ("quant_method", "quant_algo", "format", "quant_type"))
    method = next((name for name in names if isinstance(name, str) and name), field)
    bits = next((about[key] for key in _BITS if isinstance(about.get(key), int)), None)
    if bits is None:
        bits = next((bits for bits in (4, 8) if about.get(f"load_in_{bits}bit") is True), None)
    return shorten(method) if bits is None else f"{shorten(method)}, {bits} bits"


def names_in(location: str | Path) -> list[str]:
    """Names of the files in a folder; [] for a Hub id."""
    return os.listdir(location) if os.path.isdir(location) else []
