"""The texts that the teachers learn from, their splits and tokenizers: trained on the training part, or of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from transformers import BertTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase

#: The classes of SST-2 by their label.
CLASSES = ("negative", "positive")

SENTENCE_TOKENS = 64
SENTENCE_VOCABULARY = 8000
CONTEXT = 128
TEXT_VOCABULARY = 1024
BYTE_VOCABULARY = 257


@dataclass(frozen=True)
class Corpus:
    """A tokenized text.

    Attributes:
        tokenizer: the same for every teacher of this text, whoever trains it and whenever.
        train, validation, test: samples that the Trainer takes as they are.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Any
    validation: Any
    test: Any


def sst2(folder: Path) -> Corpus:
    """Sentences with their sentiment: train.tsv, dev.tsv and test.tsv, a line each of `sentence<TAB>label`."""
    splits = {name: _labelled(folder / f"{name}.tsv") for name in ("train", "dev", "test")}
    tokenizer = _wordpiece(splits["train"][0])

    def samples(name: str) -> Dataset:
        sentences, labels = splits[name]
        encoded = tokenizer(sentences, truncation=True)
        return Dataset.from_dict({**encoded, "labels": labels, "length": [len(ids) for ids in encoded["input_ids"]]})

    return Corpus(tokenizer, samples("train"), samples("dev"), samples("test"))


def shakespeare(file: Path) -> Corpus:
    """A plain text as tokens, cut by position."""
    parts = cut(file.read_text(encoding="utf-8"))
    tokenizer = _bpe(parts[0])
    train, validation, test = (tokenizer(part)["input_ids"] for part in parts)
    # Only now, lest the tokenizer complain of the length of a whole text.
    tokenizer.model_max_length = CONTEXT
    return Corpus(tokenizer, Windows(train, stride=1), Windows(validation), Windows(test))


def domain(folder: Path, name: str) -> Corpus:
    """One of several texts as bytes, so that all teachers share a tokenizer, whatever they read.

    Args:
        folder: with `<name>-train.txt`, `-validation.txt` and `-test.txt`.
    """
    tokenizer = _bytes()
    parts = [(folder / f"{name}-{part}.txt").read_text(encoding="utf-8") for part in ("train", "validation", "test")]
    train, validation, test = (tokenizer(part)["input_ids"] for part in parts)
    tokenizer.model_max_length = CONTEXT
    return Corpus(tokenizer, Windows(train, stride=1), Windows(validation), Windows(test))


def cut(text: str) -> tuple[str, str, str]:
    """Nine tenths train; of the last tenth the first half validates, the second tests."""
    first, second = round(len(text) * 0.9), round(len(text) * 0.95)
    return text[:first], text[first:second], text[second:]


class Windows:
    """Stretches of `CONTEXT` tokens as samples for a causal model, one every `stride` tokens; a rest is left out."""

    def __init__(self, tokens: list[int], stride: int = CONTEXT) -> None:
        self.tokens = tokens
        self.stride = stride

    def __len__(self) -> int:
        return (len(self.tokens) - CONTEXT) // self.stride + 1

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        window = self.tokens[index * self.stride : index * self.stride + CONTEXT]
        # Nothing predicts the first token.  The Trainer does not know that GPT-2 shifts the labels itself, and would
        # count the first among those that the loss is the mean of.
        return {"input_ids": window, "labels": [-100, *window[1:]]}


def _labelled(file: Path) -> tuple[list[str], list[int]]:
    rows = [line.rpartition("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    return [sentence for sentence, _, _ in rows], [int(label) for _, _, label in rows]


def _wordpiece(sentences: list[str]) -> PreTrainedTokenizerBase:
    """A lower-casing BERT tokenizer.

    The trainer numbers inner letters ("##e") in the order of a hash map, so that no two runs agree; handing them over
    as special tokens fixes their numbers, and only the vocabulary is kept of what is trained.
    """
    trained = Tokenizer(WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    letters = sorted({letter for line in sentences for letter in trained.normalizer.normalize_str(line)} - {" "})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"##{letter}" for letter in letters)]
    trained.train_from_iterator(
        sentences, WordPieceTrainer(vocab_size=SENTENCE_VOCABULARY, special_tokens=special, show_progress=False)
    )
    return BertTokenizer(vocab=trained.get_vocab(), do_lower_case=True, model_max_length=SENTENCE_TOKENS)


def _bytes() -> PreTrainedTokenizerBase:
    """A token for every byte, and <|endoftext|>."""
    return _bpe("", BYTE_VOCABULARY)


def _bpe(text: str, vocabulary: int = TEXT_VOCABULARY) -> PreTrainedTokenizerBase:
    """GPT-2's byte-level tokenizer with a small vocabulary; <|endoftext|> begins, ends and pads."""
    lines = text.splitlines(keepends=True)
    tokenizer = GPT2Tokenizer().train_new_from_iterator(lines, vocabulary, show_progress=False)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
