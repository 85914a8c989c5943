"""Questions on contexts as windows of tokens that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from datasets.table import InMemoryTable
from torch import Tensor

from compressor.data.readers.texts import MAX_TOKENS, reader_length
from compressor.data.samples import ReadingOptions, Sample
from compressor.data.split import CUT_FROM, Split, column
from compressor.errors import UserError
from compressor.models.teacher import ModelSpec
from compressor.utils.logging import root_cause

#: Share of a window that the next one repeats, and of one that a question may fill.
OVERLAP, MOST_OF_QUESTION = 1 / 6, 1 / 2
#: Columns of windows: first and last token of the answer, and characters of the context where tokens begin and end (-1
#: for tokens that are not of it).
SPAN, BEGINS, ENDS = "span", "begins", "ends"
#: Questions that are tokenised at once.
_CHUNK = 1000


def cut_questions(split: Split, tokenizer: Any, spec: ModelSpec, max_length: int | None, limit: int | None) -> Split:
    """The windows of questions and contexts: a long context is cut into several, which overlap by a sixth.

    A window without the answer is answered by its first special token, as in BERT's paper
    (https://arxiv.org/abs/1810.04805, section 4.3).

    Args:
        limit: most windows, of whole questions.

    Raises:
        UserError: no fast tokenizer, or windows too short for a question and some of its context.
    """
    if split.whole is not None:
        return split
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "answers are found by the characters of tokens, which only a fast tokenizer (tokenizer.json) tells"
        )
    length = reader_length(tokenizer, spec, max_length, MAX_TOKENS)
    answers = None if split.label is None else column(split.dataset, split.label)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(split), _CHUNK):
        chunk = split.dataset[start : start + _CHUNK]
        questions, contexts = (chunk[name] for name in split.text)
        for windows in _windows(tokenizer, questions, contexts, length, split.name):
            number = start + windows[0][CUT_FROM]
            for window in windows:
                window[CUT_FROM] = number
                window[SPAN] = [-1, -1] if answers is None else _span(window, answers[number], tokenizer.cls_token_id)
            if limit is not None and rows and len(rows) + len(windows) > limit:
                return _as_split(split, rows)
            rows += windows
    return _as_split(split, rows)


def _as_split(split: Split, rows: list[dict[str, Any]]) -> Split:
    lists = pa.list_(pa.int32())
    kinds = {"input_ids": lists, "token_type_ids": lists, BEGINS: lists, ENDS: lists, SPAN: pa.list_(pa.int64())}
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()}
    numbers = [row[CUT_FROM] for row in rows]
    table = {**columns, CUT_FROM: pa.array(numbers, pa.int64())}
    if split.domain is not None:
        domains = column(split.dataset, split.domain)
        table[split.domain] = pa.array([domains[number] for number in numbers])
    label = None if split.label is None else SPAN
    return replace(split, dataset=Dataset(InMemoryTable(pa.table(table))), label=label, whole=split)


def _windows(
    tokenizer: Any, questions: list[str], contexts: list[str], length: int, where: str
) -> list[list[dict[str, Any]]]:
    """The windows of each question, by rows of the chunk."""
    try:
        asked = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        most = max(1, int(MOST_OF_QUESTION * length))
        questions = [
            text if len(offsets) <= most else text[: offsets[most - 1][1]]
            for text, offsets in zip(questions, asked, strict=True)
        ]
        encoded = tokenizer(
            questions, contexts, truncation="only_second", max_length=length, stride=int(OVERLAP * length),
            return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
        )  # fmt: skip
    # Tokenizers raise errors of any class, their panics too.
    except Exception as error:
        raise UserError(
            f"the teacher's tokenizer refuses {where}: {root_cause(error)}; if {length} tokens are too few, set "
            "data.max_length (--max-length) higher"
        ) from error
    found: list[list[dict[str, Any]]] = []
    for index, number in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets = [
            place if part == 1 and place[0] < place[1] else (-1, -1)
            for place, part in zip(encoded["offset_mapping"][index], encoded.sequence_ids(index), strict=True)
        ]
        window = {
            "input_ids": encoded["input_ids"][index], "token_type_ids": encoded["token_type_ids"][index],
            BEGINS: [begin for begin, _ in offsets], ENDS: [end for _, end in offsets], CUT_FROM: number,
        }  # fmt: skip
        if found and found[-1][0][CUT_FROM] == number:
            found[-1].append(window)
        else:
            found.append([window])
    return found


def _span(window: dict[str, Any], answers: dict[str, list], cls: int | None) -> list[int]:
    """First and last token of the first answer in a window; of none, or one that is cut, the first special token."""
    ids = window["input_ids"]
    nothing = ids.index(cls) if cls in ids else 0
    if not answers["text"]:
        return [nothing, nothing]
    begin, end = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
    inside = [
        place
        for place, (first, last) in enumerate(zip(window[BEGINS], window[ENDS], strict=True))
        if first >= 0 and last > begin and first < end
    ]
    if not inside or window[BEGINS][inside[0]] > begin or window[ENDS][inside[-1]] < end:
        return [nothing, nothing]
    return [inside[0], inside[-1]]


class WindowReader:
    """Reads windows: `input_ids`, `attention_mask`, for pairs `token_type_ids` [T]; with labels `labels` [2].

    All windows of a split are padded to its longest, since tokens are the classes of an answer.
    """

    def __init__(self, split: Split, options: ReadingOptions) -> None:
        self._windows = split.dataset
        spec = options.spec
        self._pad = 0 if spec is None else spec.pad_id
        self._names = ["input_ids", *(["token_type_ids"] if spec is not None and spec.reads_pairs else [])]
        self._length = int(pc.max(pc.list_value_length(split.dataset.with_format("arrow")[:]["input_ids"])).as_py())
        self._labelled = options.labels and split.label is not None

    def __call__(self, indices: Sequence[int]) -> list[Sample]:
        rows = self._windows[list(indices)]
        return [self._sample(rows, row) for row in range(len(indices))]

    def _sample(self, rows: dict[str, list], row: int) -> Sample:
        count = len(rows["input_ids"][row])
        sample = {name: self._padded(rows[name][row], self._pad if name == "input_ids" else 0) for name in self._names}
        sample["attention_mask"] = (torch.arange(self._length) < count).long()
        return {**sample, "labels": torch.tensor(rows[SPAN][row])} if self._labelled else sample

    def _padded(self, values: list[int], fill: int) -> Tensor:
        return torch.tensor(values + [fill] * (self._length - len(values)))


class SpanReferences:
    """The questions of windows, their contexts and their answers, to score spans by."""

    def __init__(self, split: Split) -> None:
        assert split.whole is not None and split.whole.label is not None
        self._windows = split.dataset
        self._whole = split.whole
        self._numbers = np.asarray(column(split.dataset, CUT_FROM))

    def question(self, window: int) -> int:
        """The number of a window's question."""
        return int(self._numbers[window])

    def places(self, window: int) -> tuple[list[int], list[int]]:
        """Characters of the context where tokens begin and end; -1 for tokens that are not of it."""
        row = self._windows[window]
        return row[BEGINS], row[ENDS]

    def context(self, question: int) -> str:
        """The text that a question is on."""
        return str(self._whole.dataset[question][self._whole.text[1]])

    def answers(self, question: int) -> list[str]:
        """Its answers; none if the context does not answer it."""
        return list(self._whole.dataset[question][str(self._whole.label)]["text"])
