"""Texts as unpadded model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compressor.data.samples import ReadingOptions, Sample
from compressor.data.split import Split
from compressor.errors import UserError
from compressor.models.meta import DecoderInputs
from compressor.models.tasks.task import IGNORED
from compressor.models.teacher import ModelSpec
from compressor.utils.logging import root_cause

#: Default tokens of the longest text, and of a block.
MAX_TOKENS, BLOCK_TOKENS = 512, 128


def reader_length(tokenizer: Any, spec: ModelSpec | None, max_length: int | None, default: int) -> int:
    """Tokens of the longest text: `max_length` or default, within both limits."""
    limits = [max_length or default, tokenizer.model_max_length]
    model_limit = None if spec is None else spec.max_length
    return min([*limits, model_limit] if model_limit else limits)


def encode_texts(tokenizer: Any, length: int, where: str, *texts: list, **options: Any) -> Any:
    """A tokenizer's encoding of texts, of at most `length` tokens each.

    Raises:
        UserError: it is missing, or refuses.
    """
    if tokenizer is None:
        raise UserError(f"the teacher has no tokenizer, so the texts of {where} cannot be read: add one")
    try:
        return tokenizer(*texts, truncation=True, max_length=length, **options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"the teacher's tokenizer refuses {where}: {root_cause(error)}") from error


class TextReader:
    """Reads texts or pairs: `input_ids`, `attention_mask` [T], for pairs `token_type_ids`, with labels `labels` []."""

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        self.split, self.options = split, options
        self.length = reader_length(options.processor, options.spec, options.max_length, MAX_TOKENS)
        self.pairs = options.spec is not None and options.spec.reads_pairs
        self.pad = 0 if options.spec is None else options.spec.pad_id
        self._samples = split.dataset.select_columns(list(split.text))
        labels = split.labels if options.labels else None
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
        """The tokenizer's encoding, truncated.

        Raises:
            UserError: the tokenizer refuses.
        """
        return encode_texts(self.options.processor, self.length, self.split.name, *texts, **options)

    def sample(self, encoded: Any, row: int) -> Sample:
        """One text; an empty one becomes a padding token."""
        ids = torch.tensor(encoded["input_ids"][row] or [self.pad])
        sample = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.pairs and "token_type_ids" in encoded:
            sample["token_type_ids"] = torch.tensor(encoded["token_type_ids"][row] or [0])
        return sample


class WordsReader(TextReader):
    """Reads lists of words; `labels` [T] are -100 except at first tokens."""

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        super().__init__(split, ReadingOptions(options.processor, options.spec, False, options.max_length))
        self._tags = split.dataset.select_columns([split.label]) if options.labels and split.label else None

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
            samples[row]["labels"] = self._tags_of_tokens(encoded, row, tags or [], len(samples[row]["input_ids"]))
        return samples

    def _tags_of_tokens(self, encoded: Any, row: int, tags: list[int], length: int) -> Tensor:
        try:
            words = encoded.word_ids(row)
        except ValueError as error:
            raise UserError(f"the teacher's tokenizer does not tell which token is of which word: {error}") from error
        previous = [None, *words[:-1]]
        labels = [
            tags[word] if word is not None and word != last and word < len(tags) else IGNORED
            for word, last in zip(words, previous, strict=True)
        ]
        return torch.tensor(labels or [IGNORED] * length)


class TargetTokens:
    """Adds targets to samples: `decoder_input_ids`, `decoder_attention_mask`, with labels `labels`, all [S].

    The model's own rule shifts the target right.
    """

    def __init__(self, split: Split, options: ReadingOptions, tokenizer: Any) -> None:
        if options.spec is None:
            raise ValueError("an encoder–decoder's data needs its spec")
        self._split, self._with_labels, self._tokenizer = split, options.labels, tokenizer
        self._length = reader_length(tokenizer, options.spec, options.max_length, MAX_TOKENS) if tokenizer else 0
        self._shift, self._pad = DecoderInputs(options.spec.config), options.spec.pad_id
        self._start = getattr(options.spec.config, "decoder_start_token_id", None)
        self._targets = split.dataset.select_columns([split.target]) if split.target else None

    def added(self, samples: list[Sample], indices: Sequence[int]) -> list[Sample]:
        """The samples with their targets.

        Raises:
            UserError: the tokenizer refuses them, or is missing.
        """
        if self._targets is None:
            return samples
        texts = [str(text or "") for text in self._targets[list(indices)][self._split.target]]
        encoded = encode_texts(self._tokenizer, self._length, self._split.name, text_target=texts)
        for row, sample in enumerate(samples):
            ids = encoded["input_ids"][row] or [self._pad]
            # Whisper's tokenizer writes the token that the shift adds.
            labels = torch.tensor(ids[1:] if len(ids) > 1 and ids[0] == self._start else ids)
            sample["decoder_input_ids"] = self._shift(labels[None])[0]
            sample["decoder_attention_mask"] = torch.ones_like(labels)
            if self._with_labels:
                sample["labels"] = labels
        return samples


class TargetReader(TextReader):
    """Reads sources and targets, as `TargetTokens` adds them."""

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        super().__init__(split, ReadingOptions(options.processor, options.spec, False, options.max_length))
        self._targets = TargetTokens(split, options, options.processor)

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        return self._targets.added(super().__call__(indices), indices)
