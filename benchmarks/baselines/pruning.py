"""Torch-Pruning of a classifier or a language model to a narrower one that transformers loads."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compressor.errors import UserError
from compressor.models.inputs import without_labels

#: Model types whose parts are named here.
PRUNABLE = ("vit", "bert", "llama")
#: What the projections of attention end with, by whose heads they are.
QUERIES, KEYS = ("q_proj", "query"), ("k_proj", "v_proj", "key", "value")
HIDDEN_UNITS = ("fc1", "intermediate.dense", "gate_proj")
HEADS = ("classifier", "lm_head")


def prune(
    teacher: PreTrainedModel, width: float, batches: Sequence[dict[str, Tensor]], *, whole_heads: bool
) -> PreTrainedModel:
    """A narrower copy of a model, all of its widths pruned by Taylor importance.

    Args:
        teacher: stays as it is.
        width: share that is left of the residual stream, of heads or their channels, and of hidden units.
        batches: labelled samples, whose loss gives the gradients.
        whole_heads: prune heads as wholes; the channels of all of them otherwise.

    Raises:
        UserError: no config expresses the heads that are left.
    """
    # A package of its own, which nothing else here needs.
    import torch_pruning as tp

    if not whole_heads and getattr(teacher.config, "rope_parameters", None):
        raise UserError("the library prunes channels one by one, but rotary positions turn them in pairs")
    model = _ungrouped(teacher).eval().requires_grad_(True)
    example = {name: value[:1] for name, value in without_labels(batches[0]).items()}
    with _without_positions(model):
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance=tp.importance.GroupTaylorImportance(),
            pruning_ratio=1 - width,
            ignored_layers=[_head(model)],
            num_heads=_heads(model),
            prune_num_heads=whole_heads,
            prune_head_dims=not whole_heads,
            head_pruning_ratio=1 - width,
            unwrapped_parameters=_unwrapped(model),
            # A cache of keys and values would be an output too.
            forward_fn=lambda whole, inputs: whole(**inputs, return_dict=True).logits,
            output_transform=lambda logits: logits.sum(),
        )
    for batch in batches:
        (model(**batch).loss / len(batches)).backward()
    pruner.step()
    return _loaded(model, whole_heads, width)


def _ungrouped(teacher: Any) -> Any:
    """A copy that computes the same, with a key and value head for every query head.

    The library keeps heads of keys and values that queries share as they are.
    """
    config = copy.deepcopy(teacher.config)
    shared = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    times = config.num_attention_heads // shared
    if times == 1:
        return copy.deepcopy(teacher)
    config.num_key_value_heads = config.num_attention_heads
    state = teacher.state_dict()
    for name, value in state.items():
        if name.removesuffix(".weight").endswith(KEYS):
            state[name] = value.unflatten(0, (shared, -1)).repeat_interleave(times, dim=0).flatten(0, 1)
    return _filled(type(teacher), config, state)


def _without_positions(model: Any) -> AbstractContextManager[object]:
    """Rotary positions are left out while the library looks for what belongs together: it does not come to an end
    with their rotation, which stays within a head and so ties no heads together."""
    module = sys.modules[type(model).__module__]
    if not hasattr(module, "apply_rotary_pos_emb"):
        return nullcontext()
    return mock.patch.object(module, "apply_rotary_pos_emb", lambda query, key, *_, **__: (query, key))


def _filled(kind: Any, config: Any, state: dict[str, Tensor]) -> Any:
    with torch.random.fork_rng(devices=[]):
        model = kind(config).eval()
    model.load_state_dict(state)
    return model


def _head(model: Any) -> nn.Linear:
    """The layer whose outputs are the logits."""
    return next(m for name, m in model.named_modules() if name in HEADS)


def _heads(model: Any) -> dict[nn.Module, int]:
    """How many heads each projection of the attention has."""
    config = model.config
    shared = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    found = {m: config.num_attention_heads for name, m in model.named_modules() if name.endswith(QUERIES)}
    return found | {m: shared for name, m in model.named_modules() if name.endswith(KEYS)}


def _unwrapped(model: Any) -> list[tuple[nn.Parameter, int]]:
    """Parameters outside of layers that the library knows, and their axis along the residual stream."""
    names = ("cls_token", "position_embeddings")
    found = [(p, p.dim() - 1) for name, p in model.named_parameters() if name.endswith(names)]
    return found + [(m.weight, 0) for m in model.modules() if type(m).__name__.endswith("RMSNorm")]


def _loaded(pruned: Any, whole_heads: bool, width: float) -> PreTrainedModel:
    """The pruned weights in a model of a plain config."""
    config = copy.deepcopy(pruned.config)
    config.hidden_size = _head(pruned).in_features
    hidden = next(m for name, m in pruned.named_modules() if name.endswith(HIDDEN_UNITS))
    config.intermediate_size = hidden.out_features
    if whole_heads:
        channels = pruned.config.hidden_size // config.num_attention_heads
        config.num_attention_heads = round(config.num_attention_heads * width)
        if hasattr(config, "num_key_value_heads"):
            config.num_key_value_heads = config.num_attention_heads
        if config.num_attention_heads * channels != config.hidden_size:
            raise UserError(
                f"width {width:g} leaves {config.num_attention_heads} heads of {channels} channels, which are not the "
                f"{config.hidden_size} of the residual stream: no config of the family says so"
            )
    try:
        return _filled(type(pruned), config, pruned.state_dict())
    except ValueError as error:
        # Some families insist on a whole number of channels a head.
        raise UserError(f"width {width:g} leaves a shape that the family cannot express: {error}") from None
