"""Samples of a split as model inputs, one way for each task; none of them pads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compressor.data.collate import Sample
from compressor.data.images import ImageReader
from compressor.data.masking import mask_tokens
from compressor.data.packing import BLOCK, IDS
from compressor.data.split import Split
from compressor.errors import UserError
from compressor.models.meta import DecoderInputs, most_positions, reads_pairs
from compressor.models.tasks import IGNORED, pad_id
from compressor.utils.logging import root_cause

#: Longest text, in tokens, where neither the user nor tokenizer nor model says how long; and the same for blocks.
MAX_TOKENS, BLOCK_TOKENS = 512, 128


class Reader(Protocol):
    """Reads samples by their index in the split, each a dict of tensors without a batch dimension."""

    def __call__(self, indices: Sequence[int]) -> list[Sample]: ...


@dataclass(frozen=True)
class ReadingOptions:
    """How samples are read.

    Attributes:
        processor: the teacher's own image processor or tokenizer.
        config: the model's; None checks nothing against it.
        labels: whether samples carry labels.
        max_length: longest text in tokens, if the user says so.
        seed: of the tokens that are masked.
    """

    processor: Any
    config: PretrainedConfig | None
    labels: bool
    max_length: int | None = None
    seed: int = 0


def reader_length(tokenizer: Any, config: PretrainedConfig | None, asked: int | None, default: int) -> int:
    """Tokens of the longest text: what was asked for or the default, and no more than tokenizer and model hold."""
    limits = [asked or default, tokenizer.model_max_length]
    held = None if config is None else most_positions(config)
    return min([*limits, held] if held else limits)


class TextReader:
    """Texts or pairs of them: `input_ids`, `attention_mask` [T], `token_type_ids` if the model tells pairs apart.

    With labels also `labels` [].
    """

    def __init__(self, split: Split, how: ReadingOptions) -> None:
        self.split, self.how = split, how
        self.length = reader_length(how.processor, how.config, how.max_length, MAX_TOKENS)
        self.pairs = how.config is not None and reads_pairs(how.config)
        self.pad = 0 if how.config is None else pad_id(how.config)
        self._samples = split.dataset.select_columns(list(split.text))
        labels = split.labels if how.labels else None
        self._labels = None if labels is None else torch.from_numpy(labels)

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        rows = self._samples[list(indices)]
        texts = [[str(text or "") for text in rows[name]] for name in self.split.text]
        encoded = self.encode(*texts)
        samples = [self.sample(encoded, row) for row in range(len(indices))]
        if self._labels is not None:
            for sample, index in zip(samples, indices, strict=True):
                sample["labels"] = self._labels[index]
        return samples

    def encode(self, *texts: list, **options: Any) -> Any:
        """The tokenizer's own encoding, cut to what the model holds.

        Raises:
            UserError: the tokenizer refuses the texts.
        """
        try:
            return self.how.processor(*texts, truncation=True, max_length=self.length, **options)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"the teacher's tokenizer refuses {self.split.name}: {root_cause(error)}") from error

    def sample(self, encoded: Any, row: int) -> Sample:
        """One text of an encoding; a text without any token becomes one of padding."""
        ids = torch.tensor(encoded["input_ids"][row] or [self.pad])
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.pairs and "token_type_ids" in encoded:
            found["token_type_ids"] = torch.tensor(encoded["token_type_ids"][row] or [0])
        return found


class WordsReader(TextReader):
    """Lists of words: as for texts, with `labels` [T] at the first token of each word and -100 elsewhere."""

    def __init__(self, split: Split, how: ReadingOptions) -> None:
        super().__init__(split, ReadingOptions(how.processor, how.config, False, how.max_length))
        self._tags = split.dataset.select_columns([split.label]) if how.labels and split.label else None

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        words = [[str(word) for word in row or []] for row in self._samples[list(indices)][self.split.text[0]]]
        encoded = self.encode([row or [""] for row in words], is_split_into_words=True)
        samples = [self.sample(encoded, row) for row in range(len(indices))]
        if self._tags is None:
            return samples
        for row, tags in enumerate(self._tags[list(indices)][self.split.label]):
            if len(tags or []) != len(words[row]):
                raise UserError(
                    f"sample {indices[row]} of {self.split.name} has {len(words[row])} words and {len(tags or [])} tags"
                )
            samples[row]["labels"] = self._aligned(encoded, row, tags or [], len(samples[row]["input_ids"]))
        return samples

    def _aligned(self, encoded: Any, row: int, tags: list[int], length: int) -> Tensor:
        try:
            owners = encoded.word_ids(row)
        except ValueError as error:
            raise UserError(f"the teacher's tokenizer does not tell which token is of which word: {error}") from error
        before = [None, *owners[:-1]]
        labels = [
            tags[word] if word is not None and word != last and word < len(tags) else IGNORED
            for word, last in zip(owners, before, strict=True)
        ]
        return torch.tensor(labels or [IGNORED] * length)


class TargetReader(TextReader):
    """Pairs of source and target: also `decoder_input_ids` and `decoder_attention_mask` [S], with labels `labels` [S].

    The decoder is fed what it should have written, shifted right as the model itself shifts it.
    """

    def __init__(self, split: Split, how: ReadingOptions) -> None:
        super().__init__(split, ReadingOptions(how.processor, how.config, False, how.max_length))
        if how.config is None:
            raise ValueError("an encoder–decoder's data needs its config")
        self._shift = DecoderInputs(how.config)
        self._with_labels = how.labels
        self._targets = split.dataset.select_columns([split.target]) if split.target else None

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        samples = super().__call__(indices)
        if self._targets is None:
            return samples
        texts = [str(text or "") for text in self._targets[list(indices)][self.split.target]]
        encoded = self.encode(text_target=texts)
        for row, sample in enumerate(samples):
            labels = torch.tensor(encoded["input_ids"][row] or [self.pad])
            sample["decoder_input_ids"] = self._shift(labels[None])[0]
            sample["decoder_attention_mask"] = torch.ones_like(labels)
            if self._with_labels:
                sample["labels"] = labels
        return samples


class BlockReader:
    """Blocks of tokens: `input_ids` and `attention_mask` [T], with labels `labels` [T], which are the tokens again."""

    def __init__(self, split: Split, how: ReadingOptions) -> None:
        self.split, self.how = split, how

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        rows = self.split.dataset[list(indices)]
        found = []
        for ids, block in zip(rows[IDS], rows[BLOCK], strict=True):
            values = torch.tensor(ids)
            seen, labels = self.question(values, block)
            sample = {"input_ids": seen, "attention_mask": torch.ones_like(values)}
            found.append({**sample, "labels": labels} if self.how.labels else sample)
        return found

    def question(self, ids: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """What the model sees, and what it should say."""
        return ids, ids.clone()


class MaskedReader(BlockReader):
    """Blocks with some tokens masked, always the same ones; `labels` [T] are the masked tokens, -100 elsewhere."""

    def __init__(self, split: Split, how: ReadingOptions) -> None:
        super().__init__(split, how)
        tokenizer = how.processor
        if tokenizer.mask_token_id is None:
            raise UserError("the teacher's tokenizer has no mask token: set mask_token in its tokenizer_config.json")
        known = len(tokenizer)
        self._vocabulary = known if how.config is None else min(known, how.config.vocab_size)
        self._special = tuple(tokenizer.all_special_ids)

    def question(self, ids: Tensor, block: int) -> tuple[Tensor, Tensor]:
        return mask_tokens(
            ids,
            mask_id=self.how.processor.mask_token_id,
            vocabulary=self._vocabulary,
            special=self._special,
            seed=self.how.seed,
            sample=block,
        )


def _images(split: Split, how: ReadingOptions) -> Reader:
    return ImageReader(split, how.processor, how.config, labels=how.labels)


def _features(split: Split, how: ReadingOptions) -> Reader:
    return _images(split, how) if split.image else TextReader(split, how)


#: Task -> what reads its samples.
READERS: dict[str, Callable[[Split, ReadingOptions], Reader]] = {
    "image-classification": _images,
    "text-classification": TextReader,
    "token-classification": WordsReader,
    "masked-lm": MaskedReader,
    "causal-lm": BlockReader,
    "seq2seq-lm": TargetReader,
    "features": _features,
}
