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

from compressor.data.domains import by_domain, join_domains
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
    """Convert texts to blocks of tokens, in order, without loss; each block is of one domain.

    The end token separates documents, but not lines of one text. Blocks begin with the opening tokens.

    Args:
        length: tokens of a block; a domain's last may be shorter.
        ends: whether blocks also have closing tokens (masked models).
        limit: most blocks, of all domains alike.

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
    parts = by_domain(split)
    most = MOST_TOKENS if limit is None else min(MOST_TOKENS, limit * room)
    tokens = {name: _tokens(part, tokenizer, -(-most // len(parts))) for name, part in parts.items()}
    count = sum(map(len, tokens.values()))
    if not count:
        raise UserError(f"{split.name} holds no text")
    if count < room:
        raise UserError(
            f"{split.name} has {count} tokens, too few for one block of {length}: give more text, or set "
            "data.max_length (--max-length) lower"
        )
    packed: dict[str, Dataset] = {}
    for name, ids in tokens.items():
        first = sum(map(len, packed.values()))
        blocks = [np.concatenate([prefix, ids[start : start + room], suffix]) for start in range(0, len(ids), room)]
        if blocks:
            packed[name] = _blocks([block.astype(np.int32) for block in blocks], first)
    return replace(join_domains(split, packed), text=(), label=None, blocks=True, lines=False)


def _blocks(blocks: list[np.ndarray], first: int) -> Dataset:
    """Blocks as rows, numbered from `first`."""
    ends_at = np.cumsum([0, *map(len, blocks)], dtype=np.int32)
    column = pa.ListArray.from_arrays(pa.array(ends_at), pa.array(np.concatenate(blocks)))
    table = pa.table({IDS: column, BLOCK: pa.array(np.arange(first, first + len(blocks)))})
    return Dataset(InMemoryTable(table))


def head_or_tail(split: Split, role: str) -> Split:
    """The start of a text for training, or its last tenth for evaluation; of every domain, if it is long enough.

    Raises:
        UserError: too short a text.
    """
    (column,) = split.text
    whole = {name: part.dataset.select_columns([column]) for name, part in by_domain(split).items()}
    parts = {name: _head_or_tail(text, column, role) for name, text in whole.items()}
    if all(part is None for part in parts.values()):
        raise UserError(f"{split.name} is too short to keep some of it for evaluation")
    if role == "train":
        # What is too short to be cut is learnt from.
        parts = {name: whole[name] if part is None else part for name, part in parts.items()}
    title = f"first {100 * (1 - TAIL):.0f} %" if role == "train" else f"last {100 * TAIL:.0f} %"
    kept = {name: part for name, part in parts.items() if part is not None}
    return replace(join_domains(split, kept), label=None, name=f"{split.name}, {title}")


def _head_or_tail(dataset: Dataset, column: str, role: str) -> Dataset | None:
    """The start or the end of one text; None if it is too short."""
    lengths = pc.utf8_length(dataset.with_format("arrow")[:][column].cast(pa.large_string()))
    ends = np.cumsum(np.nan_to_num(np.asarray(lengths.to_numpy(), dtype=np.float64))).astype(np.int64)
    total = int(ends[-1]) if len(ends) else 0
    goal = round((1 - TAIL) * total)
    row = int(np.searchsorted(ends, goal))
    if total < 2 or row >= len(ends):
        return None
    text = dataset[row][column] or ""
    cut = _cut(text, goal - int(ends[row] - len(text)), last=row == len(dataset) - 1)
    first, last = text[:cut], text[cut:]
    if role == "train":
        parts = [dataset.select(range(row)), *_rows(dataset, column, first)]
    else:
        rest = dataset.select(range(row + 1, len(dataset))) if row + 1 < len(dataset) else dataset.select([])
        parts = [*_rows(dataset, column, last), rest]
    parts = [part for part in parts if len(part)]
    return concatenate_datasets(parts) if parts else None


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
