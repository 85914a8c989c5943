"""Masked tokens for masked language models: 15 % of them, the same ones for the same sample whenever it is read."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from compressor.models.tasks import IGNORED

#: Share of the tokens that are to be predicted; of these, what becomes the mask token and what a random token.
MASKED, REPLACED, RANDOM = 0.15, 0.8, 0.1


def mask_tokens(
    ids: Tensor, *, mask_id: int, vocabulary: int, special: Collection[int], seed: int, sample: int
) -> tuple[Tensor, Tensor]:
    """Hide some tokens of a sample, as BERT was trained.

    Args:
        ids: [T].
        mask_id: the mask token.
        vocabulary: random tokens are below this.
        special: tokens that are never hidden.
        seed, sample: the same two always hide the same tokens, whatever else is read.

    Returns:
        What the model sees [T], and labels [T]: the hidden tokens, -100 elsewhere.  At least one token is hidden where
        there is one that may be.
    """
    random = np.random.default_rng([seed, sample])
    values = ids.numpy()
    free = np.flatnonzero(~np.isin(values, list(special)))
    draw, kind, other = random.random(len(free)), random.random(len(free)), random.integers(0, vocabulary, len(free))
    chosen = draw < MASKED
    if len(free) and not chosen.any():
        chosen[draw.argmin()] = True
    seen, labels = values.copy(), np.full_like(values, IGNORED)
    labels[free[chosen]] = values[free[chosen]]
    seen[free[chosen & (kind < REPLACED)]] = mask_id
    by_chance = chosen & (kind >= REPLACED) & (kind < REPLACED + RANDOM)
    seen[free[by_chance]] = other[by_chance]
    return torch.from_numpy(seen), torch.from_numpy(labels)
