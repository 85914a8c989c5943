"""The data of each task: its columns, its reader, and what is made of it before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from compressor.data.block_readers import BlockReader, MaskedReader
from compressor.data.column_finders import (
    ColumnRequest,
    find_plain,
    find_samples,
    find_source_and_target,
    find_tagged,
)
from compressor.data.images import ImageReader
from compressor.data.packing import pack
from compressor.data.question_columns import find_questions
from compressor.data.question_windows import SpanReferences, WindowReader, cut_questions
from compressor.data.samples import Reader, ReadingOptions
from compressor.data.sentence_pairs import find_sentences, flatten_pairs
from compressor.data.split import Split
from compressor.data.text_readers import BLOCK_TOKENS, TargetReader, TextReader, WordsReader, reader_length
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


#: Task -> its data.
TASK_DATA: dict[str, TaskData] = {
    **dict.fromkeys(("image-classification", "image-multi-label", "image-regression"), TaskData(ImageReader)),
    **dict.fromkeys(("text-classification", "text-multi-label", "text-regression"), TaskData(TextReader)),
    "token-classification": TaskData(WordsReader, find_tagged),
    "question-answering": TaskData(WindowReader, find_questions, _windows, lambda split, _: SpanReferences(split)),
    "masked-lm": TaskData(MaskedReader, find_plain, _blocks),
    "causal-lm": TaskData(BlockReader, find_plain, _blocks),
    "seq2seq-lm": TaskData(TargetReader, find_source_and_target),
    "features": TaskData(_feature_reader),
    "sentence-embedding": TaskData(TextReader, find_sentences, flatten_pairs),
}
