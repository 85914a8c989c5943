"""Which tokens of the calibration batches count: padding does not, neither the encoder's nor the decoder's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from compressor.anatomy import Anatomy
from compressor.fusion.calibration.batches import sample_keys
from compressor.fusion.calibration.statistics import token_rows

#: By stack: the input that says which of its tokens are real.
_NAMES = ("attention_mask", "decoder_attention_mask")


class Masks:
    """The masks of some batches, asked by batch and module.

    Args:
        batches: model inputs.
        anatomy: says which stack's tokens a module works on.
        runs: virtual batches per batch, of a layer that runs several times.
        chosen: by batch and stack, which of the real tokens count; all of them if omitted.
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
        decoder_only = len(anatomy.stacks) == 1
        self._masks = [
            tuple(_real(batch.get(name)) for name in (_NAMES[:1] if decoder_only else _NAMES)) for batch in batches
        ]
        if chosen is not None:
            self._masks = [
                tuple(mine if real is None else mine & real for mine, real in zip(own, masks, strict=True))
                for own, masks in zip(chosen, self._masks, strict=True)
            ]

    def keys(self, batch: int) -> list[int]:
        """The keys of a batch's samples."""
        return self._keys[batch // self.runs]

    def __len__(self) -> int:
        return len(self._masks) * self.runs

    def of(self, batch: int, module: str) -> Tensor | None:
        """The mask [B, T] of the tokens that a module works on; None when all of them count."""
        masks = self._masks[batch // self.runs]
        stack = self._tokens.get(module)
        return masks[stack] if stack is not None and stack < len(masks) else None

    def count(self, module: str, values: Sequence[Tensor]) -> int:
        """How many token vectors a module is given that are no padding: one tensor [B, ..., n] a batch."""
        return sum(len(token_rows(value, self.of(index, module))) for index, value in enumerate(values))

    def unrolled(self, runs: int) -> Masks:
        """The masks of virtual batches, `runs` for every batch."""
        twin = object.__new__(Masks)
        twin._tokens, twin.runs, twin._masks, twin._keys = self._tokens, runs, self._masks, self._keys
        return twin


def _real(mask: Tensor | None) -> Tensor | None:
    return None if mask is None or bool(mask.all()) else mask.bool()
