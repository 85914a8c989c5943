"""A tiny config of any model type, made from its defaults."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto import modeling_auto

from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import all_outputs
from compressor.anatomy.resize import BUILD_ERRORS
from compressor.anatomy.trials import needed_inputs
from compressor.errors import UnsupportedError
from compressor.models.configs.fields import parts_of
from compressor.models.meta import meta_model
from compressor.utils.logging import one_line

#: Parameters of a model that is run to see whether its config is sound.
LARGEST = 1 << 24

#: Auto mappings, heads first; a type is tried with the first class that it has.
_MAPPINGS = (
    "IMAGE_CLASSIFICATION", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "IMAGE_TEXT_TO_TEXT", "CAUSAL_LM",
    "SEQUENCE_CLASSIFICATION", "",
)  # fmt: skip
#: (pattern of field names, tiny value); the first that matches counts.
_SIZES: tuple[tuple[str, int], ...] = (
    (r".*(num_key_value_heads|num_kv_heads|n_kv_heads|multi_query_group_num)", 2),
    (r".*(attention_heads|num_heads|n_heads?|num_attention_heads|nhead|decoder_heads)", 4),
    (r".*(num_.*layers|n_layers?|layers|.*num_blocks|depth|decoder_layers|encoder_layers|num_hidden_layers)", 2),
    (r"num_self_attends_per_block", 2),
    (r"(head_dim|attention_head_size|d_kv|kv_channels|v_head_dim|qk_head_dim)", 8),
    (r"(qk_nope_head_dim)", 8),
    (r"(qk_rope_head_dim)", 4),
    (r"(kv_lora_rank|q_lora_rank)", 16),
    (r".*(vocab_size)", 128),
    (r".*(intermediate|ffn|d_ff|n_inner|dim_feedforward|mlp_dim|hidden_dim).*", 48),
    (r".*(hidden_size|d_model|d_latents|n_embd|embed_dim|dim|hidden|width|channels|projection_dim|embedding_size)", 32),
    (r".*(position|n_ctx|n_positions|max_seq_len|source_positions|max_length).*", 64),
    (r".*(num_experts|n_routed_experts|num_local_experts|moe_num_experts|n_experts|zero_expert_num)", 4),
    (r".*(top_k|topk|moe_k|experts_per_tok|experts_per_token)", 2),
    (r"(n_groups?|num_group|num_expert_group|topk_group|n_shared_experts|moe_num_shared_experts)", 1),
    (r"(image_size|img_size|input_size)", 32),
    (r"(patch_size)", 8),
    (r"(num|n)_filters", 4),
    (r"latent_query_num|num_latents", 4),
    (r"(mm_tokens_per_image|image_seq_length|image_seq_len)", 4),
)  # fmt: skip


def model_types() -> list[str]:
    """All model types."""
    return sorted(CONFIG_MAPPING)


def class_of(model_type: str) -> str | None:
    """The class that Auto mappings name for a type, with a head if there is one."""
    for mapping in _MAPPINGS:
        names = getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES" if mapping else "MODEL_MAPPING_NAMES", {})
        name = names.get(model_type)
        name = name[0] if isinstance(name, (list, tuple)) else name
        if name and hasattr(transformers, name):
            return str(name)
    return None


def tiny_configs(model_type: str, architecture: str) -> Iterator[PretrainedConfig]:
    """The smallest tiny config that runs, or else the first that can be built; the defaults with few layers come last.

    Raises:
        UnsupportedError: none can be built; says why.
    """
    config_class = CONFIG_MAPPING[model_type]
    wider = tuple((pattern, 128 if size == 48 else size) for pattern, size in _SIZES)
    # Some read tokens that no field names.
    all_tokens = tuple(pair for pair in _SIZES if "vocab" not in pair[0])
    built: PretrainedConfig | None = None
    reason = ""
    for sizes in (_SIZES, wider, all_tokens, tuple(pair for pair in _SIZES if pair[1] in (2, 128, 48)), ()):
        for settle in (_as_shrunk, _with_rotary_sizes, _with_sizes_named, _with_whole_heads):
            try:
                default = config_class()
                config = _shrunk(default, sizes, _small_tokens(default))
                # Parts first: the whole refers to them.
                for _, part in reversed(list(parts_of(config))):
                    settle(part)
                config.architectures = [architecture]
                meta_model(config)
                built = built or config
                if _runs(config):
                    yield config
                    return
            # A config that no random input suits may fail in any way.
            except Exception as error:
                reason = reason or f"{type(error).__name__}: {one_line(error, 160)}"
    # What does not run tells why.
    if built is None:
        raise UnsupportedError(f"no tiny config could be built from the defaults ({reason})")
    yield built


def _runs(config: PretrainedConfig) -> bool:
    """Whether a random model of the config answers; of a large one, whether it can be built."""
    if sum(parameter.numel() for parameter in meta_model(config).parameters()) > LARGEST:
        return True
    model = random_model(config)
    return bool(all_outputs(model, needed_inputs(model, cast(PretrainedConfig, model.config), 2, 8)))


def _as_shrunk(config: PretrainedConfig) -> None:
    """No further change."""


def _with_rotary_sizes(config: PretrainedConfig) -> None:
    """Latent attention: queries have both kinds of channels, keys as many heads; sections of rotation fit heads."""
    values = config.to_dict()
    if "qk_rope_head_dim" in values and "qk_nope_head_dim" in values:
        config.num_key_value_heads = config.num_attention_heads
        config.qk_head_dim = values["qk_nope_head_dim"] + values["qk_rope_head_dim"]
    rope = getattr(config, "rope_parameters", None) or {}
    if "qk_head_dim" in values and rope.get("partial_rotary_factor", 1) < 1:
        config.head_dim = config.qk_head_dim
    if "mrope_section" in rope:
        channels = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        half = int(channels * rope.get("partial_rotary_factor", 1)) // 2
        config.rope_parameters = {**rope, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}


def _with_sizes_named(config: PretrainedConfig) -> None:
    """Fields without a default get a value that fits the others."""
    heads = getattr(config, "num_attention_heads", None) or 4
    hidden = getattr(config, "hidden_size", None) or 32
    if not (isinstance(heads, int) and isinstance(hidden, int)):
        return
    fitting: dict[str, Any] = {
        "vocab_size": 128, "num_key_value_heads": heads, "n_routed_experts": 4, "num_experts": 4,
        "num_experts_per_tok": 2, "head_dim": hidden // heads, "pad_token_id": 0,
    }  # fmt: skip
    values = config.to_dict()
    for name in values:
        if re.fullmatch(r".*(expert|topk|top_k|moe|group|rank|linear_|indexer_|index_).*", name):
            small = next((size for pattern, size in _SIZES if re.fullmatch(pattern, name)), None)
            fitting |= {} if small is None or name in fitting else {name: small}
    if isinstance(values.get("num_hidden_layers"), int):
        fitting["layer_types"] = ["full_attention"] * values["num_hidden_layers"]
    fitting["vocabulary_map"] = {"<image>": 99, **{f"IMGIMG{letter}": 100 + i for i, letter in enumerate("ABCDEFGH")}}
    for name, value in fitting.items():
        if name in values and values[name] is None:
            setattr(config, name, value)
    _with_rotary_sizes(config)


def _with_whole_heads(config: PretrainedConfig) -> None:
    """Heads of a recurrence, or of a bottleneck, fill its width; no size of heads is given twice."""
    values = config.to_dict()
    hidden = values.get("hidden_size")
    if "expand" in values and hidden:
        for heads, channels in (("num_heads", "head_dim"), ("mamba_num_heads", "mamba_head_dim")):
            if heads in values and channels in values:
                setattr(config, channels, values["expand"] * hidden // values[heads])
    for name in ("true_hidden_size", "intra_bottleneck_size"):
        if name in values:
            setattr(config, name, hidden)
    if "num_key_value_heads" in values:
        config.num_key_value_heads = config.num_attention_heads
    _with_sizes_named(config)


#: First token after the special ones of a small vocabulary.
_TOKEN = 100


def _small_tokens(config: PretrainedConfig) -> dict[int, int]:
    """{large token id: small one}, the same in every part of a config."""
    values = [item for _, part in parts_of(config) for item in part.to_dict().items()]
    tokens = {token for name, token in values if _names_token(name, token) and not _SPECIAL.match(name)}
    return {token: _TOKEN + place for place, token in enumerate(sorted(tokens))}


_SPECIAL = re.compile(r"(pad|bos|eos|sep|cls|decoder_start)_")


def _names_token(name: str, value: Any) -> bool:
    """Whether a field is the id of a token beyond a small vocabulary's special ones."""
    return name.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= _TOKEN


def _shrunk(
    config: PretrainedConfig, sizes: tuple[tuple[str, int], ...], tokens: Mapping[int, int]
) -> PretrainedConfig:
    """The config with small values in the constructor, so that what it derives fits."""
    parts = {name: value for name, value in vars(config).items() if isinstance(value, PretrainedConfig)}
    values = {name: value for name, value in config.to_dict().items() if name not in parts}
    changed = _small_values(values, sizes, tokens)
    # Parts may differ from their class's defaults.
    own = {name: value for name, value in config.to_diff_dict().items() if isinstance(value, (int, float, str))}
    own = {name: value for name, value in own.items() if name in values and name not in ("model_type", "_name_or_path")}
    try:
        small = type(config)(**{**own, **changed})
    except BUILD_ERRORS:
        small = copy.deepcopy(config)
        for name, value in changed.items():
            setattr(small, name, value)
    for name, part in parts.items():
        setattr(small, name, _backbone(part) if part.model_type == "timm_backbone" else _shrunk(part, sizes, tokens))
    return small


def _backbone(config: PretrainedConfig) -> PretrainedConfig:
    """A tiny ResNet with as many outputs, where the default needs another library."""
    stages = [f"stage{index}" for index in range(1, 5)]
    sizes: dict[str, Any] = {
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1] * 4,
        "layer_type": "basic",
    }
    sizes["out_features"] = stages[-len(config.out_indices or [0]) :]
    return CONFIG_MAPPING["resnet"](**sizes)


def _small_values(
    values: Mapping[str, Any], sizes: tuple[tuple[str, int], ...], tokens: Mapping[int, int]
) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if value is None and re.fullmatch(r"(image|audio)_token_(id|index)", name):
            changed[name] = 99
        if value is None and name == "prediction_length":
            changed[name] = 4
        if isinstance(value, bool) or name.endswith("_id") or value is None or name in ("model_type", "_name_or_path"):
            continue
        if name == "num_feat_extract_layers":
            continue  # as many as there are sizes of convolutions
        if isinstance(value, int) and name != "attention_window":
            small = next((size for pattern, size in sizes if re.fullmatch(pattern, name)), None)
            if small is not None and value > small:
                changed[name] = small
        elif name == "attention_window":
            changed[name] = [4, 4]
        elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], (str, list, tuple)):
            changed |= _small_list(name, value, values)
    layers = {value for name, value in values.items() if re.search(r"layers|depth", name) and isinstance(value, int)}
    for name, value in values.items():
        if isinstance(value, (list, tuple)) and len(value) in layers and len(value) > 2 and isinstance(value[0], str):
            changed[name] = [*value[:1], value[-1]]
    if "depths" in changed and "image_size" in values:
        # Patches halve from stage to stage, and windows must fit the last one.
        last = {"image_size": 64, "patch_size": 4, "window_size": 2}
        changed |= {name: size for name, size in last.items() if isinstance(values.get(name), int)}
    rotary = values.get("rope_parameters")
    if isinstance(rotary, dict) and (
        rotary.get("mrope_section") or re.search(r"vl|omni|glm", values.get("model_type", ""))
    ):
        # Heads of eight channels: time, rows, columns.
        changed["rope_parameters"] = {**rotary, "mrope_section": [2, 1, 1]}
    if "image_grid_pinpoints" in values:
        changed["image_grid_pinpoints"] = [[32, 64], [64, 32]]
    if "qk_rope_head_dim" in changed and "head_dim" in values:
        changed["head_dim"] = changed["qk_rope_head_dim"]
    ids = [name for name, value in values.items() if _names_token(name, value)]
    placed = {n: i % 4 if _SPECIAL.match(n) else tokens[values[n]] for i, n in enumerate(ids)}
    return changed | placed


def _small_list(name: str, value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of stages: doubled from stage to stage, with one layer each."""
    if re.fullmatch(r"deepstack_\w*indexes", name):
        return {name: [0]}
    if re.fullmatch(r"(image_size|img_size|patch_size)", name):
        return {name: [next(size for pattern, size in _SIZES if re.fullmatch(pattern, name))] * len(value)}
    if re.fullmatch(r"(depths|num_layers|layers|num_encoder_blocks)", name):
        # The first layer of convolutions makes a stage's stream, the second one passes it on.
        return {name: [1 if any("head" in other for other in values) else 2] * len(value)}
    if re.fullmatch(r"(hidden_sizes|embed_dims?|encoder_hidden_sizes|embed_dim)", name):
        return {name: [16 * 2**index for index in range(len(value))]}
    if name == "conv_dim":
        return {name: [32] * len(value)}
    if re.fullmatch(r"(num_heads|num_attention_heads)", name):
        return {name: [2] * len(value)}
    return {}
