"""Learning what each config field sizes: build the model on the meta device, enlarge one field, see what grew."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from compressor.errors import UnsupportedError

#: What a build may raise when a config is resized into something the family cannot express.
BUILD_ERRORS = (
    ValueError, TypeError, RuntimeError, AssertionError, KeyError, IndexError, ZeroDivisionError, AttributeError,
    StrictDataclassError,
)  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """How one config field sizes the model: {(parameter, dimension): coordinates per unit of the field}."""

    field: str
    value: int
    rates: Mapping[tuple[str, int], float]


@dataclass(frozen=True)
class Skeleton:
    """A model's parameters as shapes, its depth field, and how each of its size fields makes them grow."""

    config: PretrainedConfig
    shapes: Mapping[str, tuple[int, ...]]
    depth_field: str
    layer_prefix: str
    growths: tuple[Growth, ...]

    def split_layer(self, name: str) -> tuple[int | None, str]:
        """(layer index, name below the layer), or (None, name) for what lies outside the layers."""
        match = re.match(re.escape(self.layer_prefix) + r"(\d+)\.(.*)", name)
        return (int(match[1]), match[2]) if match else (None, name)


def model_class(config: PretrainedConfig) -> type[nn.Module]:
    """The transformers class that the config names.

    Raises:
        UnsupportedError: the config names none, or one that the installed transformers does not have.
    """
    names = config.architectures or []
    found = getattr(transformers, names[0], None) if names else None
    if found is None:
        raise UnsupportedError(
            f"the {config.model_type} config names {names[0] if names else 'no architecture'}: "
            f"transformers {transformers.__version__} has no such class"
        )
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from warning about configs that are built only to be measured."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def build_on_meta(config: PretrainedConfig) -> nn.Module:
    """The model of a config on the meta device: shapes only, nothing is allocated."""
    with torch.device("meta"), quiet():
        return model_class(config)(copy.deepcopy(config))


def with_fields(config: PretrainedConfig, values: Mapping[str, Any]) -> PretrainedConfig:
    """A copy of `config` with some fields replaced; per-layer lists follow a change of depth."""
    changed = copy.deepcopy(config)
    for field, value in values.items():
        old = getattr(config, field, None)
        setattr(changed, field, value)
        if isinstance(old, int) and isinstance(value, int) and value < old:
            for other, entry in config.to_dict().items():
                if isinstance(entry, list) and len(entry) == old and other.startswith("layer"):
                    setattr(changed, other, entry[:value])
    return changed


def measure(config: PretrainedConfig) -> Skeleton:
    """Find the fields that size a model, and how.

    Raises:
        UnsupportedError: no field changes the number of layers, or none changes the residual width.
    """
    depth_field, layer_prefix = _find_depth(config)
    shallow = with_fields(config, {depth_field: min(2, getattr(config, depth_field))})
    base = _shapes(shallow)
    growths = []
    for field, value in _integer_fields(shallow):
        if field == depth_field:
            continue
        growth = _grow(shallow, base, field, value)
        if growth is not None:
            growths.append(growth)
    return Skeleton(shallow, base, depth_field, layer_prefix, tuple(growths))


def _shapes(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in build_on_meta(config).named_parameters()}


def _integer_fields(config: PretrainedConfig) -> list[tuple[str, int | None]]:
    """Fields that could be sizes: whole numbers, and unset ones whose default the family derives."""
    names = {config.attribute_map.get(name, name) for name in config.to_dict()}
    found: list[tuple[str, int | None]] = []
    for name in sorted(names):
        value = getattr(config, name, None)
        if name.endswith(("token_id", "_ids", "_version", "_dtype")) or name in {"chunk_size_feed_forward"}:
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found.append((name, value))
        elif value is None:
            found.append((name, None))
    return found


def _find_depth(config: PretrainedConfig) -> tuple[str, str]:
    """The field whose decrement takes whole layers away, and the path prefix of those layers."""
    base = set(_shapes(config))
    for field, value in _integer_fields(config):
        if value is None or "layer" not in field:
            continue
        try:
            other = set(_shapes(with_fields(config, {field: value - 1 if value > 1 else 2})))
        except BUILD_ERRORS:
            continue
        changed = sorted(base ^ other)
        index = value - 1 if value > 1 else 1
        prefixes = {name.split(f".{index}.", 1)[0] + "." for name in changed if f".{index}." in name}
        if changed and len(prefixes) == 1:
            return field, prefixes.pop()
    raise UnsupportedError(f"no field of the {config.model_type} config changes the number of layers of one stack")


def _grow(
    config: PretrainedConfig, base: Mapping[str, tuple[int, ...]], field: str, value: int | None
) -> Growth | None:
    """Enlarge one field; None when the family refuses or nothing in the model grows."""
    if value is None:
        # An unset size is derived (GPT-2: n_inner = 4 n_embd); two explicit values show what it sizes.
        first, second = 24, 48
        try:
            before = _shapes(with_fields(config, {field: first}))
            after = _shapes(with_fields(config, {field: second}))
        except BUILD_ERRORS:
            return None
        rates = _rates(before, after, second - first)
        if not rates or any(rate <= 0 for rate in rates.values()):
            return None
        (name, dim), rate = next(iter(rates.items()))
        return Growth(field, round(base[name][dim] / rate), rates)
    try:
        after = _shapes(with_fields(config, {field: 2 * value}))
    except BUILD_ERRORS:
        return None
    rates = _rates(base, after, value)
    if not rates or any(rate <= 0 for rate in rates.values()):
        return None
    return Growth(field, value, rates)


def _rates(
    before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]], step: int
) -> dict[tuple[str, int], float] | None:
    if before.keys() != after.keys():
        return None
    return {
        (name, dim): (new - old) / step
        for name, shape in before.items()
        for dim, (old, new) in enumerate(zip(shape, after[name], strict=True))
        if new != old
    }
