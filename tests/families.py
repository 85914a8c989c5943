"""Tiny configs of every family that is certified, and function-preserving widenings of them."""

from __future__ import annotations

import torch
from transformers import BertConfig, DeiTConfig, GPT2Config, LlamaConfig, PretrainedConfig, RobertaConfig, ViTConfig

from compressor.anatomy import Kind, Map, Role, apply, inspect_config, map_key
from compressor.anatomy.certificate import random_model
from compressor.anatomy.resize import with_fields
from compressor.models.inputs import dummy_inputs

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IMAGE = {"image_size": 16, "patch_size": 4, "num_labels": 5, **SIZES}
TEXT = {"vocab_size": 60, "max_position_embeddings": 32, "num_labels": 3, **SIZES}


def config_of(family: str) -> PretrainedConfig:
    """A tiny config; `llama` has grouped heads."""
    made = {
        "vit": lambda: (ViTConfig(**IMAGE), "ViTForImageClassification"),
        "deit": lambda: (DeiTConfig(**IMAGE), "DeiTForImageClassification"),
        "bert": lambda: (BertConfig(**TEXT), "BertForSequenceClassification"),
        "roberta": lambda: (RobertaConfig(**TEXT), "RobertaForSequenceClassification"),
        "gpt2": lambda: (
            GPT2Config(vocab_size=60, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0),
            "GPT2LMHeadModel",
        ),
        "llama": lambda: (LlamaConfig(num_key_value_heads=2, tie_word_embeddings=False, **TEXT), "LlamaForCausalLM"),
    }
    config, architecture = made[family]()
    config.architectures = [architecture]
    return config


FAMILIES = ("vit", "deit", "bert", "roberta", "gpt2", "llama")


def tiny_model(config: PretrainedConfig, seed: int = 0):
    """A model with every parameter random, in float64."""
    return random_model(config, seed)


def widened(model, seed: int = 0):
    """A model twice as wide that computes the same: every coordinate duplicated, then every space shuffled.

    Writers are copied, readers halved; heads (groups of heads) are duplicated as wholes.
    """
    anatomy = inspect_config(model.config)
    generator = torch.Generator().manual_seed(seed)
    maps: dict[str, Map] = {}
    for space in anatomy.spaces.values():
        if space.kind is not Kind.ATTENTION:
            maps[space.name] = _duplicate(torch.arange(2 * space.size) % space.size, generator)
            continue
        d, per_group = space.head_dim, space.heads // space.groups
        groups = (torch.arange(2 * space.groups) % space.groups)[torch.randperm(2 * space.groups, generator=generator)]
        heads = (groups[:, None] * per_group + torch.arange(per_group)).flatten()
        channels = torch.arange(d)
        for role in Role:
            owners = heads if role in (Role.QUERY, Role.OUTPUT) else groups
            maps[map_key(space.name, role)] = _duplicate((owners[:, None] * d + channels).flatten(), None)
    values = {
        f: 2 * getattr(model.config, f)
        for f, meaning in anatomy.fields.items()
        if meaning in ("hidden", "heads", "groups") or (meaning == "ffn" and getattr(model.config, f))
    }
    wide = random_model(with_fields(model.config, values))
    state = apply(maps, dict(model.named_parameters()), anatomy)
    wide.load_state_dict(state, strict=False)
    return wide


def _duplicate(order: torch.Tensor, generator: torch.Generator | None) -> Map:
    if generator is not None:
        order = order[torch.randperm(len(order), generator=generator)]
    push = torch.zeros(int(order.max()) + 1, len(order), dtype=torch.float64)
    push[order, torch.arange(len(order))] = 1.0
    return Map(push, push / 2)


def batches_of(config: PretrainedConfig, count: int = 4, batch: int = 16, first_seed: int = 100) -> list[dict]:
    return [dummy_inputs(config, batch, 12, seed=first_seed + i, dtype=torch.float64) for i in range(count)]
