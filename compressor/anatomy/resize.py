"""The parameters that config fields size, found on the meta device."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig

from compressor.anatomy.layer_fields import with_layers
from compressor.models.configs.fields import field_paths, read_field, with_fields
from compressor.models.meta import meta_model

#: Errors of building a model from a resized config that its family does not support.
BUILD_ERRORS = (
    ValueError, TypeError, RuntimeError, AssertionError, KeyError, IndexError, ZeroDivisionError, AttributeError,
    StrictDataclassError,
)  # fmt: skip

#: Elements of a model that is built to be run: 4 GiB in float64.
MAX_ELEMENTS = 1 << 29


@dataclass(frozen=True)
class Growth:
    """What config fields size.

    Attributes:
        fields: one, or several that grow together.
        rates: {(parameter, dimension): coordinates per unit}.
    """

    fields: tuple[str, ...]
    value: int
    rates: Mapping[tuple[str, int], float]


@dataclass(frozen=True)
class Layers:
    """Layers {prefix}0, ..., and fields that count them."""

    prefix: str
    fields: tuple[str, ...]
    count: int

    def split(self, name: str) -> tuple[int, str] | None:
        """(layer index, name below it); None outside."""
        match = re.match(re.escape(self.prefix) + r"(\d+)(?:\.(.*))?$", name)
        return (int(match[1]), match[2] or "") if match else None


@dataclass(frozen=True)
class Skeleton:
    """A shallow config, its layers, and growths."""

    config: PretrainedConfig
    lists: tuple[Layers, ...]
    growths: tuple[Growth, ...]


def check_small(config: PretrainedConfig) -> None:
    """ValueError for a model of more than `MAX_ELEMENTS` elements."""
    model = meta_model(config)
    elements = sum(tensor.numel() for tensors in (model.parameters(), model.buffers()) for tensor in tensors)
    if elements > MAX_ELEMENTS:
        raise ValueError(
            f"its smallest model still has {elements:.1e} parameters, and more than {MAX_ELEMENTS:.1e} are not built"
        )


def shapes_of(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """{parameter: shape}, without allocation."""
    return {name: tuple(parameter.shape) for name, parameter in meta_model(config).named_parameters()}


def measure_growth(config: PretrainedConfig, depth: int, whole: Collection[str] = ()) -> Skeleton:
    """Find size fields, with `depth` layers; lists of the prefixes in `whole` keep all of theirs."""
    lists = tuple(layers for layers in _find_lists(config) if layers.prefix not in whole)
    shallow = config
    for layers in lists:
        shallow = with_layers(shallow, layers.fields, [*range(min(depth, layers.count) - 1), layers.count - 1])
    base = shapes_of(shallow)
    counts = {field for layers in lists for field in layers.fields}
    candidates = [(field, value) for field, value in _integer_fields(shallow) if field not in counts]
    return Skeleton(shallow, lists, tuple(_growths(shallow, base, candidates)))


def _integer_fields(config: PretrainedConfig) -> list[tuple[str, int | None]]:
    """Integers, and None where a default is derived."""
    fields: list[tuple[str, int | None]] = []
    for path in field_paths(config):
        value = read_field(config, path, varying=False)
        if path.endswith(("token_id", "_ids", "_version", "_dtype")) or path.endswith("chunk_size_feed_forward"):
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            fields.append((path, value))
        elif value is None:
            fields.append((path, None))
    return fields


def _find_lists(config: PretrainedConfig) -> tuple[Layers, ...]:
    """Lists of layers, by fields whose decrement removes some."""
    base = shapes_of(config)
    fields: dict[str, list[str]] = {}
    for field, value in _integer_fields(config):
        if value is None or not re.search(r"layer|depth|block", field):
            continue
        # A second layer is added to a single one.
        layers = [0, 0] if value == 1 else list(range(value - 1))
        try:
            resized = shapes_of(with_layers(config, [field], layers))
        except BUILD_ERRORS:
            continue
        more, less = (resized, base) if value == 1 else (base, resized)
        prefix = _removed_layer(more, less, len(layers) if value > 1 else 1)
        if prefix is not None:
            fields.setdefault(prefix, []).append(field)
    # Of stages that hold layers, the layers count: streams differ from stage to stage.
    outer = {prefix for prefix in fields for other in fields if other != prefix and other.startswith(prefix)}
    fields = {prefix: names for prefix, names in fields.items() if prefix not in outer}
    ordered = sorted(fields, key=lambda prefix: next(i for i, name in enumerate(base) if name.startswith(prefix)))
    return tuple(Layers(prefix, tuple(fields[prefix]), read_field(config, fields[prefix][0])) for prefix in ordered)


def _removed_layer(more: Iterable[str], less: Iterable[str], index: int) -> str | None:
    """The prefix of the list whose layer of that index is all that `more` has beyond `less`; None if there is none."""
    left = set(less)
    extra = [name for name in more if name not in left]
    lost = left - set(more)
    if not extra:
        return None
    # In nested lists (stages of layers) the index may stand at several places.
    places = [match.end() for match in re.finditer(rf"\.(?={index}\.)", extra[0])]
    for place in places:
        prefix = extra[0][:place]
        layer = f"{prefix}{index}."
        # The last layer may have parameters of its own, which the one before it gets.
        inside = all(name.startswith(layer) for name in extra) and all(name.startswith(prefix) for name in lost)
        if inside and not any(name.startswith(layer) for name in left):
            return prefix
    return None


def _growths(
    config: PretrainedConfig, base: Mapping[str, tuple[int, ...]], candidates: Sequence[tuple[str, int | None]]
) -> Iterator[Growth]:
    """Enlarge fields alone, or with equal ones."""
    broken: list[tuple[str, int]] = []
    for field, value in candidates:
        first, second = (24, 48) if value is None else (value, 2 * value)
        try:
            before = base if value is not None else shapes_of(with_fields(config, {field: first}))
            after = shapes_of(with_fields(config, {field: second}))
        except BUILD_ERRORS:
            continue
        rates = _rates(before, after, second - first)
        if value is None and rates and not {name for name, _ in rates} <= base.keys():
            # It sizes a part that the model has not without it.
            continue
        if rates is None and value is not None:
            broken.append((field, value))
        elif rates and all(rate > 0 for rate in rates.values()):
            (name, dim), rate = next(iter(rates.items()))
            yield Growth((field,), round(base[name][dim] / rate) if value is None else value, rates)
    for value in dict.fromkeys(value for _, value in broken):
        fields = tuple(field for field, other in broken if other == value)
        if len(fields) > 1:
            with suppress(*BUILD_ERRORS):
                rates = _rates(base, shapes_of(with_fields(config, dict.fromkeys(fields, 2 * value))), value)
                if rates and all(rate > 0 for rate in rates.values()):
                    yield Growth(fields, value, rates)


def _rates(
    before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]], step: int
) -> dict[tuple[str, int], float] | None:
    """Coordinates per unit; None if parameters differ."""
    if before.keys() != after.keys() or any(len(shape) != len(after[name]) for name, shape in before.items()):
        return None
    return {
        (name, dim): (new - old) / step
        for name, shape in before.items()
        for dim, (old, new) in enumerate(zip(shape, after[name], strict=True))
        if new != old
    }
