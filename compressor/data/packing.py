"""Text for language models, cut into blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets
from datasets.table import InMemoryTable

from compressor.data.split import Split
from compressor.errors import UserError
from compressor.utils.logging import quiet_transformers

#: Most tokens read of a split, four bytes each: far more than a finetune uses.
MOST_TOKENS = 1 << 26
#: Share of a text, at its end, held out if both roles have one text.
TAIL = 0.1
#: Characters of lines tokenised as one text.
_PIECE_CHARACTERS = 1 << 16
#: Columns of a packed split: token ids, and the number of the block.
IDS, BLOCK = "input_ids", "block"


def pack(split: Split, tokenizer: Any, length: int, *, ends: bool, limit: int | None = None) -> Split:
    """Convert texts to blocks of tokens, in order, without loss.

    The end token separates documents, but not lines of one text. Blocks begin with the opening tokens.

    Args:
        length: tokens of a block; the last may be shorter.
        ends: whether blocks also have closing tokens (masked models).
        limit: most blocks.

    Raises:
        UserError: no text, too little, or too short blocks.
    """
    prefix, suffix = _frame(tokenizer, split)
    suffix = suffix if ends else []
    room = length - len(prefix) - len(suffix)
    if room < 1:
        raise UserError(
            f"a block of {length} tokens leaves no room for text: set data.max_length (--max-length) higher"
        )
    most = MOST_TOKENS if limit is None else min(MOST_TOKENS, limit * room)
    tokens = _tokens(split, tokenizer, most)
    if not len(tokens):
        raise UserError(f"{split.name} holds no text")
    if len(tokens) < room:
        raise UserError(
            f"{split.name} has {len(tokens)} tokens, too few for one block of {length}: give more text, or set "
            "data.max_length (--max-length) lower"
        )
    starts = np.arange(0, len(tokens), room)
    blocks = [np.concatenate([prefix, tokens[start : start + room], suffix]).astype(np.int32) for start in starts]
    ends_at = np.cumsum([0, *map(len, blocks)], dtype=np.int32)
    column = pa.ListArray.from_arrays(pa.array(ends_at), pa.array(np.concatenate(blocks)))
    table = pa.table({IDS: column, BLOCK: pa.array(np.arange(len(blocks)))})
    return replace(split, dataset=Dataset(InMemoryTable(table)), text=(), label=None, blocks=True, lines=False)


def head_or_tail(split: Split, role: str) -> Split:
    """The start of a text for training, or its last tenth for evaluation.

    Raises:
        UserError: too short a text.
    """
    (column,) = split.text
    dataset = split.dataset.select_columns([column])
    lengths = pc.utf8_length(dataset.with_format("arrow")[:][column].cast(pa.large_string()))
    ends = np.cumsum(np.nan_to_num(np.asarray(lengths.to_numpy(), dtype=np.float64))).astype(np.int64)
    total = int(ends[-1]) if len(ends) else 0
    goal = round((1 - TAIL) * total)
    row = int(np.searchsorted(ends, goal))
    if total < 2 or row >= len(ends):
        raise UserError(f"{split.name} is too short to keep some of it for evaluation")
    text = dataset[row][column] or ""
    cut = _cut(text, goal - int(ends[row] - len(text)), last=row == len(dataset) - 1)
    title = f"first {100 * (1 - TAIL):.0f} %" if role == "train" else f"last {100 * TAIL:.0f} %"
    first, last = text[:cut], text[cut:]
    if role == "train":
        parts = [dataset.select(range(row)), *_rows(dataset, column, first)]
    else:
        rest = dataset.select(range(row + 1, len(dataset))) if row + 1 < len(dataset) else dataset.select([])
        parts = [*_rows(dataset, column, last), rest]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise UserError(f"{split.name} is too short to keep some of it for evaluation")
    return replace(split, dataset=concatenate_datasets(parts), label=None, name=f"{split.name}, {title}")


def _rows(dataset: Dataset, column: str, text: str) -> list[Dataset]:
    return [Dataset.from_dict({column: [text]}, features=dataset.features)] if text else []


def _cut(text: str, goal: int, *, last: bool) -> int:
    """Position of a cut: after the first line break from `goal` on, else space, else `goal`."""
    most = len(text) - 1 if last else len(text)
    cuts = (text.find(mark, goal) + 1 for mark in ("\n", " "))
    return next((cut for cut in cuts if 0 < cut <= most), goal)


def _tokens(split: Split, tokenizer: Any, most: int) -> np.ndarray:
    """The first `most` tokens, int32."""
    names = ("eos_token_id", "sep_token_id")
    end = None if split.lines else next((t for n in names if (t := getattr(tokenizer, n, None)) is not None), None)
    parts: list[np.ndarray] = []
    count = 0
    for texts in _batches(_pieces(split)):
        with quiet_transformers():
            encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for ids in encoded["input_ids"]:
            parts.append(np.asarray([*ids, end] if end is not None and ids else ids, dtype=np.int32))
            count += len(parts[-1])
        if count >= most:
            break
    return np.concatenate(parts)[:most] if parts else np.zeros(0, dtype=np.int32)


def _pieces(split: Split) -> Iterator[str]:
    """Documents, or pieces of joined lines."""
    (column,) = split.text
    texts = (str(row[column] or "") for row in split.dataset.select_columns([column]))
    if not split.lines:
        yield from texts
        return
    lines: list[str] = []
    size = 0
    for text in texts:
        lines.append(text)
        size += len(text)
        if size >= _PIECE_CHARACTERS:
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)


def _batches(texts: Iterable[str], size: int = 64) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _frame(tokenizer: Any, split: Split) -> tuple[list[int], list[int]]:
    """The tokenizer's opening and closing tokens."""
    (column,) = split.text
    sample = next((str(row[column])[:40] for row in split.dataset if str(row[column] or "").strip()), "")
    bare = list(tokenizer(sample, add_special_tokens=False)["input_ids"])
    framed = list(tokenizer(sample)["input_ids"])
    for start in range(len(framed) - len(bare) + 1):
        if bare and framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []
