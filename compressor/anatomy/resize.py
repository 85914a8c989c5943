"""Learning what each config field sizes: build the model on the meta device, enlarge one field, see what grew."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig

from compressor.models.meta import meta_model

#: What a build may raise when a config is resized into something the family cannot express.
BUILD_ERRORS = (
    ValueError, TypeError, RuntimeError, AssertionError, KeyError, IndexError, ZeroDivisionError, AttributeError,
    StrictDataclassError,
)  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """How config fields size the model: {(parameter, dimension): coordinates per unit of the field}.

    Several fields where the model only holds together when they grow as one (hidden and embedding size, when equal).
    """

    fields: tuple[str, ...]
    value: int
    rates: Mapping[tuple[str, int], float]


@dataclass(frozen=True)
class Layers:
    """A numbered list of layers: {prefix}0, {prefix}1, ..., and the fields that count them."""

    prefix: str
    fields: tuple[str, ...]
    count: int

    def split(self, name: str) -> tuple[int, str] | None:
        """(layer index, name below the layer), or None for what lies outside."""
        match = re.match(re.escape(self.prefix) + r"(\d+)(?:\.(.*))?$", name)
        return (int(match[1]), match[2] or "") if match else None


@dataclass(frozen=True)
class Skeleton:
    """A config cut to a few layers, its lists of layers, and how each of its size fields makes the model grow."""

    config: PretrainedConfig
    lists: tuple[Layers, ...]
    growths: tuple[Growth, ...]


def shapes_of(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """{parameter: shape} of the model of a config; nothing is allocated."""
    return {name: tuple(parameter.shape) for name, parameter in meta_model(config).named_parameters()}


def with_fields(config: PretrainedConfig, values: Mapping[str, Any]) -> PretrainedConfig:
    """A copy of `config` with some fields replaced."""
    changed = copy.deepcopy(config)
    for field, value in values.items():
        setattr(changed, field, value)
    return changed


def with_layers(config: PretrainedConfig, fields: Sequence[str], kept: Sequence[int]) -> PretrainedConfig:
    """A copy of `config` with some of its layers: lists with an entry a layer keep those of the layers kept.

    Args:
        config: a config.
        fields: the fields that count the layers.
        kept: for every layer of the copy, the layer of `config` that it takes after.
    """
    old = getattr(config, fields[0])
    changed = with_fields(config, dict.fromkeys(fields, len(kept)))
    for name, entry in config.to_dict().items():
        if not isinstance(entry, list) or not entry:
            continue
        if len(entry) == old and not name.endswith("_ids"):
            setattr(changed, name, [entry[index] for index in kept])
        elif all(isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[1], int) for item in entry):
            # GPT-Neo writes [[[types], times], ...].
            unrolled = [kind for kinds, times in entry for _ in range(times) for kind in kinds]
            if len(unrolled) == old:
                setattr(changed, name, [[[unrolled[index]], 1] for index in kept])
    return changed


def measure_growth(config: PretrainedConfig, depth: int) -> Skeleton:
    """Find the fields that size a model, and how.

    Args:
        config: of any size.
        depth: layers to which every list is cut.
    """
    lists = _find_lists(config)
    shallow = config
    for layers in lists:
        kept = [*range(min(depth, layers.count) - 1), layers.count - 1]
        shallow = with_layers(shallow, layers.fields, kept)
    base = shapes_of(shallow)
    counts = {field for layers in lists for field in layers.fields}
    candidates = [(field, value) for field, value in _integer_fields(shallow) if field not in counts]
    return Skeleton(shallow, lists, tuple(_growths(shallow, base, candidates)))


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


def _find_lists(config: PretrainedConfig) -> tuple[Layers, ...]:
    """Lists of layers, in the model's order, by the fields whose decrement takes layers away."""
    base = shapes_of(config)
    found: dict[str, list[str]] = {}
    for field, value in _integer_fields(config):
        if value is None or not re.search(r"layer|depth|block", field):
            continue
        # Of a single layer nothing can be taken away: there one is added.
        kept = [0, 0] if value == 1 else list(range(value - 1))
        try:
            other = shapes_of(with_layers(config, [field], kept))
        except BUILD_ERRORS:
            continue
        more, less = (other, base) if value == 1 else (base, other)
        gone = [name for name in more if name not in less]
        prefixes = {
            match[1] for name in gone if (match := re.match(rf"(.*?\.){len(kept) if value > 1 else 1}\.", name))
        }
        if gone and len(prefixes) == 1 and not set(less) - set(more):
            found.setdefault(prefixes.pop(), []).append(field)
    ordered = sorted(found, key=lambda prefix: next(i for i, name in enumerate(base) if name.startswith(prefix)))
    return tuple(Layers(prefix, tuple(found[prefix]), getattr(config, found[prefix][0])) for prefix in ordered)


def _growths(
    config: PretrainedConfig, base: Mapping[str, tuple[int, ...]], candidates: Sequence[tuple[str, int | None]]
) -> Iterator[Growth]:
    """Enlarge every field alone; those that tear the model apart alone are enlarged with others of their value."""
    torn: list[tuple[str, int]] = []
    for field, value in candidates:
        first, second = (24, 48) if value is None else (value, 2 * value)
        try:
            before = base if value is not None else shapes_of(with_fields(config, {field: first}))
            after = shapes_of(with_fields(config, {field: second}))
        except BUILD_ERRORS:
            continue
        rates = _rates(before, after, second - first)
        if rates is None and value is not None:
            torn.append((field, value))
        elif rates and all(rate > 0 for rate in rates.values()):
            (name, dim), rate = next(iter(rates.items()))
            yield Growth((field,), round(base[name][dim] / rate) if value is None else value, rates)
    for value in dict.fromkeys(value for _, value in torn):
        fields = tuple(field for field, own in torn if own == value)
        if len(fields) > 1:
            with suppress(*BUILD_ERRORS):
                rates = _rates(base, shapes_of(with_fields(config, dict.fromkeys(fields, 2 * value))), value)
                if rates and all(rate > 0 for rate in rates.values()):
                    yield Growth(fields, value, rates)


def _rates(
    before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]], step: int
) -> dict[tuple[str, int], float] | None:
    """Coordinates per unit; None when the two models do not have the same parameters."""
    if before.keys() != after.keys() or any(len(shape) != len(after[name]) for name, shape in before.items()):
        return None
    return {
        (name, dim): (new - old) / step
        for name, shape in before.items()
        for dim, (old, new) in enumerate(zip(shape, after[name], strict=True))
        if new != old
    }
