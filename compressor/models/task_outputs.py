"""How outputs of other forms than one tensor of logits are read (`Task.read`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.models.task import IMPOSSIBLE


def span_ends(outputs: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits of a span's first and last token, [B, 2, T], from one each [B, T]; padding is impossible."""
    logits = torch.stack(list(outputs), 1)
    mask = inputs.get("attention_mask")
    return logits if mask is None else logits.masked_fill(~mask.bool().to(logits.device)[:, None], IMPOSSIBLE)
