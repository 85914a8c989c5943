"""Blocks as inputs of language models."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from compressor.data.readers.packing import BLOCK, IDS
from compressor.data.samples import ReadingOptions, Sample
from compressor.data.split import Split
from compressor.errors import UserError
from compressor.models.tasks.task import IGNORED

#: Share of predicted tokens; of these, shares replaced by the mask token and by random tokens.
MASKED, REPLACED, RANDOM = 0.15, 0.8, 0.1


class BlockReader:
    """Reads blocks: `input_ids`, `attention_mask`, with labels `labels` (the same tokens), all [T]."""

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        self.split, self.options = split, options

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        rows = self.split.dataset[list(indices)]
        samples = []
        for ids, block in zip(rows[IDS], rows[BLOCK], strict=True):
            tokens = torch.tensor(ids)
            inputs, labels = self.inputs_and_labels(tokens, block)
            sample = {"input_ids": inputs, "attention_mask": torch.ones_like(tokens)}
            samples.append({**sample, "labels": labels} if self.options.labels else sample)
        return samples

    def inputs_and_labels(self, tokens: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """Input tokens and tokens to predict, both [T]."""
        return tokens, tokens.clone()


class MaskedReader(BlockReader):
    """Reads blocks with fixed masked tokens; `labels` are -100 elsewhere."""

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        super().__init__(split, options)
        tokenizer = options.processor
        if tokenizer.mask_token_id is None:
            raise UserError("the teacher's tokenizer has no mask token: set mask_token in its tokenizer_config.json")
        words = len(tokenizer)
        self._vocabulary = words if options.spec is None else min(words, options.spec.config.vocab_size)
        self._special = tuple(tokenizer.all_special_ids)

    def inputs_and_labels(self, tokens: Tensor, block: int) -> tuple[Tensor, Tensor]:
        return mask_tokens(
            tokens,
            mask_id=self.options.processor.mask_token_id,
            vocabulary=self._vocabulary,
            special=self._special,
            seed=self.options.seed,
            sample=block,
        )


def mask_tokens(
    ids: Tensor, *, mask_id: int, vocabulary: int, special: Collection[int], seed: int, sample: int
) -> tuple[Tensor, Tensor]:
    """Mask some tokens [T], as in BERT's training; `seed` and `sample` decide which.

    Args:
        vocabulary: random tokens are below this.
        special: never masked.

    Returns:
        Inputs and labels, [T], -100 if unmasked; at least one is masked if allowed.
    """
    random = np.random.default_rng([seed, sample])
    tokens = ids.numpy()
    free = np.flatnonzero(~np.isin(tokens, list(special)))
    draws, kinds = random.random(len(free)), random.random(len(free))
    replacements = random.integers(0, vocabulary, len(free))
    chosen = draws < MASKED
    if len(free) and not chosen.any():
        chosen[draws.argmin()] = True
    inputs, labels = tokens.copy(), np.full_like(tokens, IGNORED)
    labels[free[chosen]] = tokens[free[chosen]]
    inputs[free[chosen & (kinds < REPLACED)]] = mask_id
    at_random = chosen & (kinds >= REPLACED) & (kinds < REPLACED + RANDOM)
    inputs[free[at_random]] = replacements[at_random]
    return torch.from_numpy(inputs), torch.from_numpy(labels)
