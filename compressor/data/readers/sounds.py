"""Sounds as model inputs, with classes or transcripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from compressor.data.columns.by_name import find_label, named_column
from compressor.data.columns.by_task import ColumnRequest
from compressor.data.columns.labels import map_labels
from compressor.data.files.sound_files import find_sound, waveform
from compressor.data.readers.texts import TargetTokens
from compressor.data.samples import ReadingOptions, Sample
from compressor.data.split import Split
from compressor.errors import UserError
from compressor.utils.logging import root_cause

#: Usual names of columns of transcripts.
_TRANSCRIPTS = ("text", "transcript", "transcription", "sentence", "normalized_text", "target")
#: Transcripts by which the case of letters is chosen.
_LOOKED_AT = 100


def find_sounds(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """Sounds, with a class each if there are any.

    Raises:
        UserError: no sounds, or ambiguous.
    """
    sound, names = find_sound(dataset, where), request.id2label
    label = find_label(dataset, request.options.label_column, None if names is None else len(names), where)
    if label is not None:
        dataset, label = map_labels(dataset, label, names, where, partial=role == "train")
    return Split(dataset, None, label, (), where, audio=sound)


def find_transcribed(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """Sounds, with their transcripts if there are any.

    Raises:
        UserError: no sounds, or ambiguous.
    """
    names = {name.lower(): name for name in dataset.column_names}
    option = request.options.target_column
    if option is not None:
        named_column(dataset, option, "target", where)
    target = option or next((names[name] for name in _TRANSCRIPTS if name in names), None)
    return Split(dataset, None, target, (), where, target=target, audio=find_sound(dataset, where))


def find_spoken(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    """Sounds and their transcripts, which a decoder reads as it answers.

    Raises:
        UserError: no sounds or transcripts, or ambiguous.
    """
    split = find_transcribed(dataset, request, where, role)
    if split.target is None:
        raise UserError(
            f"{where} has no column of transcripts ({', '.join(_TRANSCRIPTS)}), which the decoder reads: name it with "
            f"data.target_column (--target-column); its columns are {', '.join(dataset.column_names)}"
        )
    return split


class SoundReader:
    """Reads what the feature extractor makes of a sound, `input_values` or `input_features`, with labels `labels`."""

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        self.split, self.options = split, options
        self.extractor = getattr(options.processor, "feature_extractor", options.processor)
        self._sounds = split.dataset.select_columns([str(split.audio)])
        one_each = options.spec is None or options.spec.task.one_class
        labels = split.labels if options.labels and one_each else None
        self._labels = None if labels is None else torch.from_numpy(labels)

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        """Decode and preprocess sounds.

        Raises:
            UserError: names a broken or unfit sound.
        """
        stored = self._sounds[list(indices)][self.split.audio]
        samples = [self._sample(sound, row) for sound, row in zip(stored, indices, strict=True)]
        if self._labels is not None:
            for sample, index in zip(samples, indices, strict=True):
                sample["labels"] = self._labels[index]
        return samples

    def _sample(self, stored: Any, row: int) -> Sample:
        where, rate = f"sample {row} of {self.split.name}", int(self.extractor.sampling_rate)
        sound = waveform(stored, rate, where)
        try:
            made: Mapping[str, Tensor] = self.extractor(sound, sampling_rate=rate, return_tensors="pt")
        except (ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"the feature extractor refuses {where}: {root_cause(error)}") from error
        sample = {name: value[0] for name, value in made.items()}
        if "input_values" in sample and getattr(self.extractor, "return_attention_mask", False):
            sample["attention_mask"] = torch.ones(len(sample["input_values"]), dtype=torch.long)
        return sample


class SymbolsReader(SoundReader):
    """Reads sounds and the symbols of their transcripts, `labels` [S]."""

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        super().__init__(split, options)
        self._case: Callable[[str], str] = str
        self._texts = split.dataset.select_columns([split.label]) if options.labels and split.label else None
        self._tokenizer = getattr(options.processor, "tokenizer", None)
        if self._texts is not None and self._tokenizer is not None:
            shown = [str(text or "") for text in self._texts[:_LOOKED_AT][split.label]]
            cases: tuple[Callable[[str], str], ...] = (str, str.upper, str.lower)
            self._case = min(cases, key=lambda case: self._unknown([case(text) for text in shown]))

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        samples = super().__call__(indices)
        if self._texts is None:
            return samples
        if self._tokenizer is None:
            raise UserError(
                f"the teacher has no tokenizer, so the transcripts of {self.split.name} cannot be read: add one"
            )
        texts = [self._case(str(text or "")) for text in self._texts[list(indices)][self.split.label]]
        for sample, text in zip(samples, texts, strict=True):
            sample["labels"] = torch.tensor(self._tokenizer(text)["input_ids"], dtype=torch.long)
        return samples

    def _unknown(self, texts: list[str]) -> int:
        """Symbols that the tokenizer does not know."""
        assert self._tokenizer is not None
        unknown = self._tokenizer.unk_token_id
        return sum(ids.count(unknown) for ids in self._tokenizer(texts)["input_ids"])


class SpokenTargetReader(SoundReader):
    """Reads sounds and what a decoder says of them, as `TargetTokens` adds it."""

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        super().__init__(split, options)
        self._targets = TargetTokens(split, options, getattr(options.processor, "tokenizer", None))

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        return self._targets.added(super().__call__(indices), indices)


class Transcripts:
    """Texts of symbols or tokens.

    Args:
        options: of the tokenizer's `decode`.
    """

    def __init__(self, tokenizer: Any, **options: bool) -> None:
        self._tokenizer, self._options = tokenizer, options

    def text(self, symbols: Sequence[int]) -> str:
        """The text of symbols without blanks, or of tokens."""
        return str(self._tokenizer.decode(list(symbols), **self._options))


def transcripts(split: Split, processor: Any) -> Transcripts | None:
    """By which the symbols of a split are read, each as often as it is said; None without a tokenizer."""
    tokenizer = getattr(processor, "tokenizer", None)
    options = {"group_tokens": False} if hasattr(tokenizer, "word_delimiter_token") else {}
    return None if tokenizer is None else Transcripts(tokenizer, **options)


def spoken_texts(split: Split, processor: Any) -> Transcripts | None:
    """By which a decoder's tokens of sounds are read, without special ones; None without a tokenizer."""
    tokenizer = getattr(processor, "tokenizer", None)
    return None if split.audio is None or tokenizer is None else Transcripts(tokenizer, skip_special_tokens=True)
