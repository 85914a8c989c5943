"""What a forward pass costs a CPU, from shapes alone: the same on every machine, so that choices repeat.

Multiply–accumulates do not tell heads apart: twelve heads of 8 have as many as three of 32.  Every head has a row of
attention for every token, though, and softmax, small products and their memory take time for each entry of it.  ONNX
Runtime's time of layers grows linearly with the number of heads, by 60 to 140 multiply–accumulates an entry
(benchmarks/deploy/heads.py).
"""

from __future__ import annotations

from transformers import PreTrainedModel

from compressor.anatomy import Anatomy, Kind

#: Multiply–accumulates that take as long as what each entry of an attention row costs besides its products.
ENTRY_COST = 100.0


def attention_entries(anatomy: Anatomy, tokens: float) -> float:
    """Entries of all attention rows of a sample, of all heads and layers."""
    return sum(space.heads for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION) * tokens**2


def relative_cost(model: PreTrainedModel, anatomy: Anatomy, tokens: float) -> float:
    """The time of a sample in units of a multiply–accumulate, to compare shapes of one width.

    Args:
        model: read for its shapes only.
        tokens: of a sample.
    """
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    products = sum(
        2 * space.heads * space.head_dim for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION
    )
    return tokens * weights + tokens**2 * products + ENTRY_COST * attention_entries(anatomy, tokens)
