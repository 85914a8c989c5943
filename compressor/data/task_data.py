"""The data of each task: its columns, its reader, and what is made of it before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from compressor.data.columns.boxes import find_boxed
from compressor.data.columns.by_task import (
    ColumnRequest,
    find_plain,
    find_samples,
    find_source_and_target,
    find_tagged,
)
from compressor.data.columns.masks import find_masked
from compressor.data.columns.questions import find_questions
from compressor.data.columns.sentence_pairs import find_sentences, flatten_pairs
from compressor.data.readers.blocks import BlockReader, MaskedReader
from compressor.data.readers.boxes import BoxReader
from compressor.data.readers.captions import CaptionReader, find_captioned
from compressor.data.readers.choices import ChoicesReader, find_choices
from compressor.data.readers.images import ImageReader
from compressor.data.readers.masks import MaskReader
from compressor.data.readers.packing import pack
from compressor.data.readers.question_windows import SpanReferences, WindowReader, cut_questions
from compressor.data.readers.sounds import (
    SoundReader,
    SpokenTargetReader,
    SymbolsReader,
    find_sounds,
    find_spoken,
    find_transcribed,
    spoken_texts,
    transcripts,
)
from compressor.data.readers.texts import BLOCK_TOKENS, TargetReader, TextReader, WordsReader, reader_length
from compressor.data.samples import Reader, ReadingOptions
from compressor.data.split import Split
from compressor.models.teacher import ModelSpec


@dataclass(frozen=True)
class SplitPreparation:
    """How a split is prepared.

    Attributes:
        max_length: tokens of the longest text or block.
        limit: most samples.
    """

    processor: Any
    spec: ModelSpec
    max_length: int | None = None
    limit: int | None = None


@dataclass(frozen=True)
class TaskData:
    """The data of one task.

    Attributes:
        read: makes the reader of a split.
        find: columns of a dataset, from (dataset, request, name of the source, role).
        prepare: splits samples into what the model reads, such as blocks or windows; a split that is prepared already
            stays.
        references: of a split, by which answers are scored where labels do not say all.
    """

    read: Callable[[Split, ReadingOptions], Reader]
    find: Callable[[Dataset, ColumnRequest, str, str], Split] = find_samples
    prepare: Callable[[Split, SplitPreparation], Split] | None = None
    references: Callable[[Split, Any], Any] | None = None


def _blocks(split: Split, preparation: SplitPreparation) -> Split:
    """Texts as blocks of tokens; default 128 tokens, or the model's longest text."""
    if split.blocks:
        return split
    processor, spec = preparation.processor, preparation.spec
    length = reader_length(processor, spec, preparation.max_length, BLOCK_TOKENS)
    return pack(split, processor, length, ends=spec.task.ends, limit=preparation.limit)


def _windows(split: Split, preparation: SplitPreparation) -> Split:
    return cut_questions(split, preparation.processor, preparation.spec, preparation.max_length, preparation.limit)


def _feature_reader(split: Split, options: ReadingOptions) -> Reader:
    return ImageReader(split, options) if split.image else TextReader(split, options)


def _target_reader(split: Split, options: ReadingOptions) -> Reader:
    return SpokenTargetReader(split, options) if split.audio else TargetReader(split, options)


def _find_targets(dataset: Dataset, request: ColumnRequest, where: str, role: str) -> Split:
    find = find_spoken if request.reads == "audio" else find_source_and_target
    return find(dataset, request, where, role)


#: Task -> its data.
TASK_DATA: dict[str, TaskData] = {
    **dict.fromkeys(("image-classification", "image-multi-label", "image-regression"), TaskData(ImageReader)),
    **dict.fromkeys(("text-classification", "text-multi-label", "text-regression"), TaskData(TextReader)),
    "image-text": TaskData(CaptionReader, find_captioned),
    "semantic-segmentation": TaskData(MaskReader, find_masked),
    "object-detection": TaskData(BoxReader, find_boxed),
    "token-classification": TaskData(WordsReader, find_tagged),
    "question-answering": TaskData(WindowReader, find_questions, _windows, lambda split, _: SpanReferences(split)),
    "multiple-choice": TaskData(ChoicesReader, find_choices),
    "masked-lm": TaskData(MaskedReader, find_plain, _blocks),
    "causal-lm": TaskData(BlockReader, find_plain, _blocks),
    "seq2seq-lm": TaskData(_target_reader, _find_targets, references=spoken_texts),
    "audio-classification": TaskData(SoundReader, find_sounds),
    "ctc": TaskData(SymbolsReader, find_transcribed, references=transcripts),
    "sentence-embedding": TaskData(TextReader, find_sentences, flatten_pairs),
    **dict.fromkeys(("features", "unscored"), TaskData(_feature_reader)),
}
