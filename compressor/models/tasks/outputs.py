"""How outputs of other forms than one tensor of logits are read (`Task.read`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from compressor.models.tasks.task import IMPOSSIBLE


def span_ends(outputs: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits of a span's first and last token, [B, 2, T], from one each [B, T]; padding is impossible."""
    logits = torch.stack(list(outputs), 1)
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape[-1] != logits.shape[-1]:
        return logits
    return logits.masked_fill(~mask.bool().to(logits.device)[:, None], IMPOSSIBLE)


def pair_embeddings(outputs: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """Embeddings of images and texts [B, 2, D] whose products are the logits, up to a constant.

    Args:
        outputs: embeddings of images and of texts [B, D], and logits [B, B], which are their cosines times a scale and
            perhaps plus a constant (SigLIP).
    """
    images, texts, logits = outputs
    images, texts = normalize(images, dim=-1), normalize(texts, dim=-1)
    cosines = images @ texts.T
    centred = cosines - cosines.mean()
    # A single pair has one logit, which is chosen whatever the scale.
    scale = (centred * (logits - logits.mean())).sum() / centred.square().sum().clamp(min=1e-12)
    return torch.stack([images, texts], dim=1) * scale.clamp(min=1e-6).sqrt()
