"""Config fields that count, list or name layers follow a change of depth."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from compressor.models.configs.fields import part_of, read_field, set_field

#: Lists with an entry per layer: its kind, window, base of rotation, or size.
_PER_LAYER = re.compile(
    r"(?!pos_att_type).*(_types|_type|_per_layer|_windows?|_pattern|_rates|_limits\w*|_theta)"
    r"|(attention|no_rope|kv_source|attn)_layers|attention_window|layers?_\w+|block_configs|intermediate_size|moe_\w+"
)
#: Lists of layers of one kind, by index.
_CHOSEN = re.compile(
    r"(mlp_only|moe|cross_attention|rope_scaling|encode_proj|subsample)_layers|full_attn_idxs|attn_layer_indices"
    r"|(ple|local|target|hybrid|mtp_local)_layer_ids|(window|residual|fullatt|global_attn|global_attention)_?"
    r"(block_)?(indices|indexes|blocks|layers)"
)
#: Lists of layers whose outputs are read, by index: their number stays, as far as there are layers.
_READ = re.compile(
    r"(backbone_)?out_indices|segment(ation)?_(out_)?indices|extract_layers|cat_hidden_layers"
    r"|(intermediate|deepstack|interaction)_\w*(indices|indexes)|vision_feature_layer"
)
#: How many first, or last, layers are of a kind.
_FIRST = re.compile(r"max_window_layers|first_k_\w+|n(um)?_dense_layers|num_first_\w+_layers|moe_layer_start_index")
_LAST = re.compile(r"num_kv_shared_layers|num_last_\w+_layers")


def with_layers(config: PretrainedConfig, fields: Sequence[str], layers: Sequence[int]) -> PretrainedConfig:
    """A copy of a config with some of its layers.

    Args:
        fields: that count them.
        layers: their original indices, in order.
    """
    changed = copy.deepcopy(config)
    owner = part_of(fields[0])
    part = read_field(changed, owner) if owner else changed
    if not isinstance(part, PretrainedConfig):
        # A stage: other lists have an entry a stage, not a layer.
        for field in fields:
            set_field(changed, field, len(layers))
    elif owner:
        inner = [field.removeprefix(f"{owner}.") for field in fields if part_of(field) == owner]
        set_field(changed, owner, with_layers(part, inner, layers))
    else:
        _keep_layers(changed, fields, layers)
    return changed


def _keep_layers(changed: PretrainedConfig, fields: Sequence[str], layers: Sequence[int]) -> None:
    old = getattr(changed, fields[0])
    values = changed.to_dict()
    for field in fields:
        setattr(changed, field, len(layers))
    for name, value in values.items():
        if name not in fields and name not in _STAGES:
            new = _follow(name, value, old, layers)
            if new != value:
                setattr(changed, name, new)
    _set_stages(changed, values, old, layers)


_STAGES = ("stage_names", "out_features", "out_indices")


def _follow(name: str, value: Any, old: int, layers: Sequence[int]) -> Any:
    """The value of a field for the chosen layers; others as they are."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return _threshold(name, value, old, layers)
    if not isinstance(value, list) or not value:
        return value
    if _READ.fullmatch(name) and all(type(item) is int for item in value):
        return _outputs(value, old, layers, first=int(max(value) >= old))
    if _CHOSEN.fullmatch(name) and all(type(item) is int for item in value):
        # Layers beyond the last are none.
        chosen = {item % old for item in value if -old <= item < old}
        return [place for place, layer in enumerate(layers) if layer in chosen]
    if _PER_LAYER.fullmatch(name) and len(value) == old:
        return [value[layer] for layer in layers]
    return _grouped(value, old, layers)


def _threshold(name: str, value: int, old: int, layers: Sequence[int]) -> int:
    """Of a number of first or last layers, those that are left."""
    if _FIRST.fullmatch(name):
        return sum(layer < value for layer in layers)
    if _LAST.fullmatch(name):
        return sum(layer >= old - value for layer in layers)
    if name == "moe_layer_end_index":
        return sum(layer <= value for layer in layers) - 1
    return value


def _grouped(value: list[Any], old: int, layers: Sequence[int]) -> list[Any]:
    """Lists of the form [[[kinds], times], ...] (GPT-Neo), an entry per layer."""
    if not all(isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], int) for item in value):
        return value
    if not all(isinstance(kinds, list | tuple) for kinds, _ in value):
        return value
    kinds = [kind for group, times in value for _ in range(times) for kind in group]
    return [[[kinds[layer]], 1] for layer in layers] if len(kinds) == old else value


def _outputs(indices: Sequence[int], old: int, layers: Sequence[int], first: int) -> list[int]:
    """Places of the layers that stand for those whose outputs are read.

    Args:
        first: number of the first layer: 1 if 0 is what goes into it.
    """
    count, new = old + first, len(layers) + first
    places = []
    for index in indices:
        wanted = index % count - first
        if wanted >= 0:
            later = (place for place, layer in enumerate(layers) if layer >= wanted)
            wanted = next(later, len(layers) - 1)
        place = wanted + first
        # Negative ones count from the end.
        places.append(place if index >= 0 else place - new)
    return list({place % new: place for place in places}.values())


def _set_stages(config: PretrainedConfig, values: Mapping[str, Any], old: int, layers: Sequence[int]) -> None:
    """Name the stages of a backbone and choose its outputs anew."""
    names, indices = values.get("stage_names"), values.get("out_indices")
    if not isinstance(names, list):
        if isinstance(indices, list):
            # Without names, numbers of layers.
            config.out_indices = _follow("out_indices", indices, old, layers)
        return
    first = len(names) - old
    if first not in (0, 1):
        # Stages of several layers each.
        return
    config.stage_names = names[: first + len(layers)]
    if isinstance(indices, list):
        config.out_indices = _outputs(indices, old, layers, first)
