"""Masks of real tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from compressor.anatomy import Anatomy
from compressor.fusion.calibration.batches import sample_keys
from compressor.fusion.calibration.statistics import token_rows

#: What marks real tokens, of an encoder (or the only stack) and of a decoder.
_MASK, _DECODER_MASK = "attention_mask", "decoder_attention_mask"


class Masks:
    """The masks of some batches, by batch and module.

    Args:
        runs: virtual batches per batch.
        chosen: tokens that count; default all.
    """

    def __init__(
        self,
        batches: Sequence[Mapping[str, Tensor]],
        anatomy: Anatomy,
        runs: int = 1,
        chosen: Sequence[tuple[Tensor, ...]] | None = None,
    ) -> None:
        self._tokens, self.runs = anatomy.tokens, runs
        self._keys = [sample_keys(batch) for batch in batches]
        self._masks = [
            tuple(_padding_mask(batch.get(name)) for name in _mask_names(len(anatomy.stacks), batch))
            for batch in batches
        ]
        if chosen is not None:
            self._masks = [
                tuple(mask if real is None else mask & real for mask, real in zip(selected, masks, strict=True))
                for selected, masks in zip(chosen, self._masks, strict=True)
            ]

    def keys(self, batch: int) -> list[int]:
        """The keys of a batch's samples."""
        return self._keys[batch // self.runs]

    def __len__(self) -> int:
        return len(self._masks) * self.runs

    def of(self, batch: int, module: str) -> Tensor | None:
        """A module's mask [B, T]; None if all count."""
        masks = self._masks[batch // self.runs]
        stack = self._tokens.get(module)
        return masks[stack] if stack is not None and stack < len(masks) else None

    def count(self, module: str, values: Sequence[Tensor]) -> int:
        """Real token vectors in tensors [B, ..., n], one per batch."""
        return sum(len(token_rows(value, self.of(index, module))) for index, value in enumerate(values))

    def unrolled(self, runs: int) -> Masks:
        """The masks of `runs` virtual batches per batch."""
        twin = object.__new__(Masks)
        twin._tokens, twin.runs, twin._masks, twin._keys = self._tokens, runs, self._masks, self._keys
        return twin


def _mask_names(stacks: int, batch: Mapping[str, Tensor]) -> list[str]:
    """By stack, the mask of its tokens; towers of images have other numbers of tokens, which no mask fits."""
    decoder = [_DECODER_MASK] if stacks > 1 and "decoder_input_ids" in batch else []
    return [_MASK] * (stacks - len(decoder)) + decoder


def _padding_mask(mask: Tensor | None) -> Tensor | None:
    # Several texts a sample are as one long one: of the same tokens in the same order.
    return None if mask is None or bool(mask.all()) else mask.bool().flatten(1)
