"""Bounds on sizes in a model's folder, checked before anything is built.

They are several times the largest public models: 126 layers of 16,384 (Llama 405B), 2,048 experts a layer (Switch).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.utils.input_files import MIB, check_regular, read_json, special_kind
from compressor.wording import quote, shorten

#: Bytes of config.json, and of other files read whole: a tokenizer of 256,000 tokens has 33 MB.
CONFIG_BYTES, FILE_BYTES = 16 * MIB, 256 * MIB
#: Classes with names.
MAX_LABELS = 1 << 17
#: Estimated parameters.
MAX_PARAMETERS = 10**14
#: Patches of an image, 256 × 256: attention compares all pairs.
MAX_PATCHES = 1 << 16
#: Any other whole number: 64 bits.
_MAX_INTEGER = (1 << 63) - 1

#: (unit, names of fields, largest value); the first match counts.
_BOUNDS: tuple[tuple[str, re.Pattern[str], int], ...] = tuple(
    (unit, re.compile(pattern), most)
    for unit, pattern, most in (
        ("positions", r"^(max_position_embeddings|n_positions|max_seq_len|max_source_positions)$", 1 << 27),
        ("length", r"position|length|seq|window|block_size|chunk|ctx|theta|_id$|_ids$|_token", _MAX_INTEGER),
        ("classes", r"^num_labels$|^num_classes$", MAX_LABELS),
        ("tokens", r"vocab", 1 << 26),
        ("pixels", r"image_size|^height$|^width$|shortest_edge", 1 << 13),
        ("pixels", r"patch_size", 1 << 10),
        ("units", r"intermediate|ffn|d_ff|inner|mlp", 1 << 21),
        ("width", r"hidden_size|size$|dim|channel|embd|d_model|width|configs?$", 1 << 18),
        ("experts", r"expert", 1 << 16),
        ("heads", r"head", 1 << 13),
        ("layers", r"layer|depth|block|stage", 1 << 9),
    )
)
#: Configs of image preprocessors.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
#: Names of classes: their keys are not fields of the config.
_LABELS = ("id2label", "label2id")


def check_model_files(folder: Path) -> None:
    """Refuse special or far too large files.

    Raises:
        UserError: special file, JSON or text above `FILE_BYTES`, or huge images.
    """
    for path in sorted(folder.iterdir()):
        kind = special_kind(path)
        if kind == "a folder":
            continue
        check_regular(path, FILE_BYTES if path.suffix in (".json", ".txt", ".jinja") else None)
        if path.name in PROCESSOR_FILES:
            try:
                read_config_values(path)
            except (OSError, ValueError) as error:
                raise UserError(f"cannot read the preprocessor {path}: {error}") from None


def read_config_values(path: Path) -> Any:
    """The checked values of a config.json.

    Raises:
        UserError: no regular file, too large, or too large a number.
        OSError: unreadable.
        ValueError: not JSON, or nested too deeply.
    """
    values = read_json(path, CONFIG_BYTES)
    if isinstance(values, dict):
        check_sizes(values, str(path))
    return values


def check_sizes(values: Mapping[str, Any], where: str) -> None:
    """Refuse a config larger than any model's, nested configs included.

    Raises:
        UserError: a number beyond its bound, too many classes or parameters.
    """
    for name in _LABELS:
        labels = values.get(name)
        if isinstance(labels, Mapping) and len(labels) > MAX_LABELS:
            raise UserError(f"{where}: {name} has {len(labels)} classes, more than {MAX_LABELS}")
    for name, number in _numbers(values):
        unit, most = _bound(name)
        if abs(number) > most:
            raise UserError(
                f"{where}: {shorten(name)} is {quote(number)}, more than any model has ({unit}: at most {most})"
            )
    patches = _patches(values)
    if patches > MAX_PATCHES:
        raise UserError(f"{where}: an image has {patches} patches, more than {MAX_PATCHES}")
    count = _parameters(values)
    if count > MAX_PARAMETERS:
        raise UserError(f"{where}: its fields come to some {count:.0e} parameters, more than {MAX_PARAMETERS:.0e}")
    for name, inner in values.items():
        if isinstance(inner, Mapping) and name not in _LABELS:
            check_sizes(inner, f"{where}, {shorten(str(name))}")


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """(field, value) of whole numbers, also in lists, but not in nested configs."""
    for name, value in values.items():
        items = list(value) if isinstance(value, list | tuple) else [value]
        while items:
            item = items.pop()
            if isinstance(item, list | tuple):
                items += item
            elif isinstance(item, int) and not isinstance(item, bool):
                yield str(name), item


def _bound(name: str) -> tuple[str, int]:
    """Unit and largest value of a field."""
    for unit, pattern, most in _BOUNDS:
        if pattern.search(name):
            return unit, most
    return "numbers", _MAX_INTEGER


def _patches(values: Mapping[str, Any]) -> int:
    """Most patches of an image; 0 without images."""
    sizes: dict[str, list[int]] = {"image_size": [], "patch_size": []}
    for name, number in _numbers(values):
        if name in sizes and number > 0:
            sizes[name].append(number)
    images, patches = sizes.values()
    return (max(images) // min(patches)) ** 2 if images and patches else 0


def _parameters(values: Mapping[str, Any]) -> float:
    """Rough count of parameters."""
    largest: dict[str, int] = {}
    for name, number in _numbers(values):
        unit, _ = _bound(name)
        largest[unit] = max(largest.get(unit, 0), number)
    width, units = largest.get("width", 0), largest.get("units", 0)
    layer = 4 * width**2 + 3 * width * units * max(1, largest.get("experts", 0))
    return float(largest.get("layers", 0) * layer + largest.get("tokens", 0) * width)
