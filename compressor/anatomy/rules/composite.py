"""Operations that torch runs as one and that are watched as several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional


def _multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int, in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float,
    out_proj_weight: Tensor, out_proj_bias: Tensor | None, training: bool = True,
    key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None, k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """`nn.MultiheadAttention` on [T, B, C], without dropout and masks, which move no coordinates."""
    width = query.shape[-1]
    weights: tuple[Tensor | None, ...] = (q_proj_weight, k_proj_weight, v_proj_weight)
    if in_proj_weight is not None and not use_separate_proj_weight:
        weights = (in_proj_weight[:width], in_proj_weight[width : 2 * width], in_proj_weight[2 * width :])
    biases: tuple[Tensor | None, ...] = (None, None, None)
    if in_proj_bias is not None:
        biases = (in_proj_bias[:width], in_proj_bias[width : 2 * width], in_proj_bias[2 * width :])

    def heads(states: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        assert weight is not None
        projected = functional.linear(states, weight, bias)
        split = projected.reshape(states.shape[0], states.shape[1], num_heads, projected.shape[-1] // num_heads)
        return split.permute(1, 2, 0, 3)

    q, k, v = (heads(s, w, b) for s, w, b in zip((query, key, value), weights, biases, strict=True))
    attention = ((q / q.shape[-1] ** 0.5) @ k.transpose(-2, -1)).softmax(-1)
    mixed = (attention @ v).permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], width)
    return functional.linear(mixed, out_proj_weight, out_proj_bias), None


#: {name of an operation: the same in smaller ones, for structure alone}.
COMPOSITES: dict[str, Callable[..., Any]] = {"multi_head_attention_forward": _multi_head_attention}
