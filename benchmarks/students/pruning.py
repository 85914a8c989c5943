"""Torch-Pruning of a vision transformer to a narrower one that transformers loads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from transformers import PreTrainedModel

from compressor.errors import UserError

#: What the projections of a ViT's attention end with.
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "query", "key", "value")


def prune(
    teacher: PreTrainedModel, width: float, batches: Sequence[dict[str, Tensor]], *, whole_heads: bool
) -> PreTrainedModel:
    """A narrower copy of an image classifier, all of its widths pruned by Taylor importance.

    Args:
        teacher: stays as it is.
        width: share that is left of the residual stream, of heads or their channels, and of hidden units.
        batches: labelled samples, whose loss gives the gradients.
        whole_heads: prune heads as wholes; the channels of all of them otherwise.

    Raises:
        UserError: no config expresses the heads that are left.
    """
    model: Any = copy.deepcopy(teacher).eval().requires_grad_(True)
    config = model.config
    heads = {m: config.num_attention_heads for name, m in model.named_modules() if name.endswith(PROJECTIONS)}
    embeddings = model.get_submodule(model.base_model_prefix).embeddings
    pruner = tp.pruner.BasePruner(
        model,
        {"pixel_values": batches[0]["pixel_values"][:1]},
        importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=1 - width,
        ignored_layers=[model.classifier],
        num_heads=heads,
        prune_num_heads=whole_heads,
        prune_head_dims=not whole_heads,
        head_pruning_ratio=1 - width,
        unwrapped_parameters=[(embeddings.cls_token, 2), (embeddings.position_embeddings, 2)],
        output_transform=lambda output: output.logits.sum(),
    )
    for batch in batches:
        loss = nn.functional.cross_entropy(model(pixel_values=batch["pixel_values"]).logits, batch["labels"])
        (loss / len(batches)).backward()
    pruner.step()
    return _loaded(model, whole_heads, width)


def _loaded(pruned: Any, whole_heads: bool, width: float) -> PreTrainedModel:
    """The pruned weights in a model of a plain config."""
    config = copy.deepcopy(pruned.config)
    state = pruned.state_dict()
    config.hidden_size = next(v for name, v in state.items() if name.endswith("cls_token")).shape[-1]
    hidden = next(m for name, m in pruned.named_modules() if name.endswith(("fc1", "intermediate.dense")))
    config.intermediate_size = hidden.out_features
    if whole_heads:
        channels = pruned.config.hidden_size // config.num_attention_heads
        config.num_attention_heads = round(config.num_attention_heads * width)
        if config.num_attention_heads * channels != config.hidden_size:
            raise UserError(
                f"width {width:g} leaves {config.num_attention_heads} heads of {channels} channels, which are not the "
                f"{config.hidden_size} of the residual stream: no config of the family says so"
            )
    with torch.random.fork_rng(devices=[]):
        model = type(pruned)(config).eval()
    model.load_state_dict(state)
    return model
