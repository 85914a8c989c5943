"""Config fields by path: `hidden_size`, of a part `vision_config.hidden_size`, of a stage `depths.2`."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

#: Most stages of a hierarchical model: longer lists have an entry a layer, or are no sizes.
_STAGES = 8
#: Lists of numbers that size no stage.
_NO_STAGES = re.compile(r".*(indices|indexes|_ids|idx|image_size|stage_names|_shape|scales?|_theta|_layers)")


def part_of(path: str) -> str:
    """The part or list in which a field is; "" for the whole config."""
    return path.rpartition(".")[0]


def parts_of(config: PretrainedConfig, prefix: str = "") -> Iterator[tuple[str, PretrainedConfig]]:
    """(path with its final dot, config) of a config and its parts."""
    yield prefix, config
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig) and not name.startswith("_"):
            yield from parts_of(value, f"{prefix}{name}.")


def field_paths(config: PretrainedConfig) -> list[str]:
    """Paths of all fields under the names that their classes use, entries of stages included; sorted in each part."""
    paths = []
    for prefix, part in parts_of(config):
        for name in sorted({part.attribute_map.get(name, name) for name in part.to_dict()}):
            value = read_field(part, name)
            if isinstance(value, PretrainedConfig):
                continue
            paths.append(prefix + name)
            if _counts_stages(name, value):
                paths += [f"{prefix}{name}.{index}" for index in range(len(value))]
    return paths


def read_field(config: PretrainedConfig, path: str, varying: Any = None) -> Any:
    """A field's value, or None; `varying` where it differs from layer to layer (Gemma 4)."""
    value: Any = config
    for name in path.split("."):
        try:
            value = value[int(name)] if isinstance(value, (list, tuple)) else getattr(value, name, None)
        except RuntimeError:
            return varying
        except IndexError:
            return None
    return value


def with_fields(config: PretrainedConfig, values: Mapping[str, Any]) -> PretrainedConfig:
    """A copy with replaced fields."""
    changed = copy.deepcopy(config)
    for path, value in values.items():
        set_field(changed, path, value)
    return changed


def repeated_fields(config: PretrainedConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """New values of fields that repeat those of a part: on loading they would undo its change."""
    repeats = {}
    for path, value in values.items():
        part, _, name = path.rpartition(".")
        same = part and name not in values and vars(config).get(name) == read_field(config, path)
        if same and not name.isdigit():
            repeats[name] = value
    return repeats


def set_field(config: PretrainedConfig, path: str, value: Any) -> None:
    """Replace one field in place."""
    outer, _, name = path.rpartition(".")
    if not outer:
        setattr(config, name, value)
        return
    owner = read_field(config, outer)
    if isinstance(owner, (list, tuple)):
        items = list(owner)
        items[int(name)] = value
        # Lists may be checked or derived from, so they are set as a whole.
        set_field(config, outer, type(owner)(items))
    else:
        setattr(owner, name, value)


def _counts_stages(name: str, value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not 1 < len(value) <= _STAGES or _NO_STAGES.fullmatch(name):
        return False
    return all(isinstance(item, int) and not isinstance(item, bool) for item in value)
