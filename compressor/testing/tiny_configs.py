"""Tiny configs of every supported family, for tests and documentation: class and values of each."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from compressor.errors import UserError

_IMAGE: dict[str, Any] = {"image_size": 16, "patch_size": 4, "num_labels": 5}
_TEXT: dict[str, Any] = {"vocab_size": 60, "max_position_embeddings": 40, "num_labels": 3}
_SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
_GROUPED: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
_IDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_BART: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2,
}  # fmt: skip
_T5: dict[str, Any] = {
    "vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "pad_token_id": 0,
    "decoder_start_token_id": 0,
}  # fmt: skip

#: {family: (model type, class, config values)}.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("vit", "ViTForImageClassification", _IMAGE | _SIZES),
    "deit": ("deit", "DeiTForImageClassification", _IMAGE | _SIZES),
    "dinov2": ("dinov2", "Dinov2ForImageClassification", _IMAGE | _SIZES | {"mlp_ratio": 2}),
    "beit": (
        "beit", "BeitForImageClassification",
        _IMAGE | _SIZES | {"use_relative_position_bias": True, "layer_scale_init_value": 0.1},
    ),
    "bert": ("bert", "BertForSequenceClassification", _TEXT | _SIZES),
    "roberta": ("roberta", "RobertaForSequenceClassification", _TEXT | _SIZES),
    "xlm-roberta": ("xlm-roberta", "XLMRobertaForTokenClassification", _TEXT | _SIZES),
    "distilbert": (
        "distilbert", "DistilBertForSequenceClassification",
        {**_TEXT, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    ),
    "albert": ("albert", "AlbertForSequenceClassification", _TEXT | _SIZES | {"embedding_size": 24}),
    "electra": ("electra", "ElectraForSequenceClassification", _TEXT | _SIZES | {"embedding_size": 24}),
    "modernbert": (
        "modernbert", "ModernBertForSequenceClassification",
        _TEXT | _SIZES | {"num_hidden_layers": 4, "local_attention": 8, "pad_token_id": 0, "bos_token_id": 1,
                          "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "deberta-v2": (
        "deberta-v2", "DebertaV2ForSequenceClassification",
        _TEXT | _SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8,
                          "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
                          "pooler_hidden_size": 32, "type_vocab_size": 0},
    ),
    "clip-text": ("clip_text_model", "CLIPTextModel", _TEXT | _SIZES | {"projection_dim": 24} | _IDS),
    "clip-vision": ("clip_vision_model", "CLIPVisionModel", _IMAGE | _SIZES | {"projection_dim": 24}),
    "gpt2": (
        "gpt2", "GPT2LMHeadModel",
        {"vocab_size": 60, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4} | _IDS,
    ),
    "gpt-neo": (
        "gpt_neo", "GPTNeoForCausalLM",
        {"vocab_size": 60, "max_position_embeddings": 40, "hidden_size": 32, "num_layers": 2, "num_heads": 4,
         "attention_types": [[["global", "local"], 1]], "window_size": 8} | _IDS,
    ),
    "gpt-neox": ("gpt_neox", "GPTNeoXForCausalLM", _TEXT | _SIZES | _IDS | {"rotary_pct": 0.5}),
    "opt": (
        "opt", "OPTForCausalLM",
        _TEXT | _IDS | {"hidden_size": 32, "word_embed_proj_dim": 24, "ffn_dim": 48, "num_hidden_layers": 2,
                        "num_attention_heads": 4},
    ),
    "bloom": ("bloom", "BloomForCausalLM", {"vocab_size": 60, "hidden_size": 32, "n_layer": 2, "n_head": 4} | _IDS),
    "llama": ("llama", "LlamaForCausalLM", _TEXT | _SIZES | _GROUPED | {"tie_word_embeddings": False}),
    "mistral": ("mistral", "MistralForCausalLM", _TEXT | _SIZES | _GROUPED | {"sliding_window": 8}),
    "qwen2": ("qwen2", "Qwen2ForCausalLM", _TEXT | _SIZES | {"num_key_value_heads": 2}),
    "qwen3": ("qwen3", "Qwen3ForCausalLM", _TEXT | _SIZES | _GROUPED),
    "gemma2": (
        "gemma2", "Gemma2ForCausalLM",
        _TEXT | _SIZES | _GROUPED | {"sliding_window": 8, "query_pre_attn_scalar": 8},
    ),
    "phi3": ("phi3", "Phi3ForCausalLM", _TEXT | _SIZES | _IDS | {"num_key_value_heads": 2, "sliding_window": 8}),
    "granite": (
        "granite", "GraniteForCausalLM",
        _TEXT | _SIZES | _IDS | {"num_key_value_heads": 2, "embedding_multiplier": 3.0, "attention_multiplier": 0.2,
                                 "residual_multiplier": 0.5, "logits_scaling": 2.0},
    ),
    "olmo2": ("olmo2", "Olmo2ForCausalLM", _TEXT | _SIZES | _IDS | {"num_key_value_heads": 2}),
    "mixtral": (
        "mixtral", "MixtralForCausalLM",
        _TEXT | _SIZES | _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "t5": (
        "t5", "T5ForConditionalGeneration",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bart": ("bart", "BartForConditionalGeneration", _TEXT | _BART | _IDS),
    "whisper": (
        "whisper", "WhisperForConditionalGeneration",
        _BART | _IDS | {"vocab_size": 60, "num_mel_bins": 6, "max_source_positions": 10, "max_target_positions": 40,
                        "begin_suppress_tokens": None, "suppress_tokens": None},
    ),
}  # fmt: skip


def tiny_config(family: str, **values: Any) -> PretrainedConfig:
    """A tiny config of a family, built offline.

    Args:
        family: a key of `FAMILIES`.
        values: override the table.

    Raises:
        UserError: unknown family.
    """
    if family not in FAMILIES:
        raise UserError(f"no tiny config of '{family}' (known families: {', '.join(FAMILIES)})")
    kind, architecture, defaults = FAMILIES[family]
    config = AutoConfig.for_model(kind, **{**defaults, **values})
    config.architectures = [architecture]
    return config
