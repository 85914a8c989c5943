"""Damaged stretches of Shakespeare and what they were: sources and targets for an encoder–decoder.

    python -m benchmarks.text.pairs --text tinyshakespeare.txt -o seq2seq

A stretch of words is the target; its source is the same with some words masked.  Most of a target can only be told
by looking at its source, so that a model learns nothing without cross-attention.  The command writes the very pairs
that the teachers learn from as train.jsonl, validation.jsonl and test.jsonl, which `compress` reads as they are.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from benchmarks.text.corpora import TEXT_VOCABULARY, Corpus, cut

WORDS, MASKED = 15, 3
#: Words between the beginnings of two stretches for training, which overlap and are masked differently.
TRAIN_STRIDE = 5
#: Tokens of a source or target; hardly any stretch is longer.
PAIR_TOKENS = 64
PAD, END, MASK = "<pad>", "</s>", "<mask>"

EVALUATION_BATCH = 64


def main(
    text: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="File with tiny Shakespeare.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the three files.")],
) -> None:
    """Write the pairs as JSON lines with `source` and `target`."""
    output.mkdir(parents=True, exist_ok=True)
    for name, pairs in splits(text).items():
        lines = (json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        (output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        typer.echo(f"{output / name}.jsonl: {len(pairs)} pairs")


def splits(file: Path) -> dict[str, list[dict[str, str]]]:
    """The pairs of each part of the text; the same in every run."""
    train, validation, test = cut(file.read_text(encoding="utf-8"))
    return {
        "train": list(damaged(train, TRAIN_STRIDE, seed=0)),
        "validation": list(damaged(validation, WORDS, seed=1)),
        "test": list(damaged(test, WORDS, seed=2)),
    }


def damaged(text: str, stride: int, seed: int) -> Iterator[dict[str, str]]:
    """Stretches of `WORDS` words, `MASKED` of them masked in the source; white space stays as it is."""
    choose = random.Random(seed)
    words = re.findall(r"\s*\S+", text)
    for start in range(0, len(words) - WORDS + 1, stride):
        target = words[start : start + WORDS]
        hidden = set(choose.sample(range(WORDS), MASKED))
        source = [re.sub(r"\S+", MASK, word) if place in hidden else word for place, word in enumerate(target)]
        yield {"source": "".join(source).strip(), "target": "".join(target).strip()}


def seq2seq(file: Path) -> Corpus:
    """The pairs as token ids, with a tokenizer trained on the training part of the text."""
    tokenizer = _bpe(cut(file.read_text(encoding="utf-8"))[0])

    def samples(pairs: list[dict[str, str]]) -> Dataset:
        sources, targets = ([pair[side] for pair in pairs] for side in ("source", "target"))
        return Dataset.from_dict(dict(tokenizer(sources, text_target=targets, truncation=True)))

    found = splits(file)
    return Corpus(tokenizer, samples(found["train"]), samples(found["validation"]), samples(found["test"]))


def restored(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Dataset) -> dict[str, float]:
    """How well a model tells targets: loss and perplexity per token, and the perplexity with the sources of others.

    A model whose cross-attention does nothing has the same perplexity either way.
    """
    rows = samples.to_list()
    # Half-way round, since neighbours in the text have much in common.
    others = rows[len(rows) // 2 :] + rows[: len(rows) // 2]
    mixed = [{**other, "labels": row["labels"]} for row, other in zip(rows, others, strict=True)]
    loss = _loss(model, tokenizer, rows)
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "perplexity_with_other_source": math.exp(_loss(model, tokenizer, mixed)),
    }


@torch.no_grad()
def _loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]) -> float:
    """The mean over all tokens; the Trainer's is one over batches, which differ in their tokens."""
    collate = DataCollatorForSeq2Seq(tokenizer, model)
    model.eval()
    total, tokens = 0.0, 0
    for start in range(0, len(rows), EVALUATION_BATCH):
        batch = collate(rows[start : start + EVALUATION_BATCH])
        count = int((batch["labels"] >= 0).sum())
        total += model(**batch).loss.item() * count
        tokens += count
    return total / tokens


def _bpe(text: str) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer that ends a text as T5's does, which is how a decoder learns to stop."""
    trained = Tokenizer(BPE())
    trained.pre_tokenizer, trained.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    special: list[str | AddedToken] = [PAD, END, MASK]
    trainer = BpeTrainer(
        vocab_size=TEXT_VOCABULARY,
        special_tokens=special,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(text.splitlines(keepends=True), trainer)
    trained.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, trained.token_to_id(END))])
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token=PAD, eos_token=END, mask_token=MASK, model_max_length=PAIR_TOKENS
    )


if __name__ == "__main__":
    typer.run(main)
