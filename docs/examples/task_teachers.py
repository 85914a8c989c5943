"""Small teachers and data for the pages of tasks: words of a little grammar, numbers in words; minutes on one core.

    python task_teachers.py FOLDER

Two text classifiers (`bert-a`, `bert-b`), masked models (`mlm-…`), encoders without a head (`encoder-…`), language
models (`gpt-…`) and encoder–decoders (`bart-…`). The language models are experts: each has read one text twelve times
as often as the other.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

GOOD, BAD = ("good", "fine", "bright", "warm", "clever"), ("bad", "dull", "weak", "cold", "loud")
THINGS, LINKS = ("film", "plot", "actor", "scene", "song", "end"), ("and", "but", "while")
UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TENS = ["ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
WORDS = (
    *GOOD,
    *BAD,
    *THINGS,
    *LINKS,
    *UNITS,
    *TENS,
    *["the", "is", "was", "not", "very", "hundred", "plus", "makes", "."],
    *"0123456789",
)
VOCABULARY = {word: index for index, word in enumerate((*SPECIAL, *dict.fromkeys(WORDS)))}
PAD, START, END, MASK = (VOCABULARY[word] for word in ("<pad>", "<s>", "</s>", "<mask>"))
#: Tokens of a training sample of the language models.
LENGTH = 32
STEPS, BATCH = 400, 64
#: Reviews that each classifier has read.
REVIEWS = 1000


def review(draw: random.Random) -> tuple[str, int]:
    """A sentence of two or three opinions, and whether more of them are good."""
    parts, sum_of_opinions = [], 0
    for _ in range(draw.choice((2, 3, 3))):
        good, negated = draw.random() < 0.5, draw.random() < 0.3
        words = ["the", draw.choice(THINGS), draw.choice(("is", "was")), *(["not"] if negated else [])]
        parts.append(" ".join([*words, *(["very"] if draw.random() < 0.3 else []), draw.choice(GOOD if good else BAD)]))
        sum_of_opinions += 1 if good != negated else -1
    text = parts[0] + "".join(f" {draw.choice(LINKS)} {part}" for part in parts[1:])
    return f"{text} .", int(sum_of_opinions > 0)


def in_words(number: int) -> str:
    """A number below 1000, such as "two hundred forty one"."""
    hundreds, tens, units = number // 100, number // 10 % 10, number % 10
    words = [f"{UNITS[hundreds]} hundred"] if hundreds else []
    words += [TENS[tens - 1]] if tens else []
    return " ".join([*words, *([UNITS[units]] if units or not words else [])])


def total(draw: random.Random) -> str:
    """A sum, such as "twenty one plus four makes twenty five ."."""
    first, second = draw.randrange(100), draw.randrange(10)
    return f"{in_words(first)} plus {in_words(second)} makes {in_words(first + second)} ."


def make_data(folder: Path) -> None:
    """reviews/ (train.tsv, test.tsv), films.txt, sums.txt, numbers/ (train.jsonl, test.jsonl)."""
    for part, count, seed in (("train", 4000, 0), ("test", 1000, 1)):
        draw = random.Random(seed)
        (folder / "reviews").mkdir(exist_ok=True)
        rows = [f"{text}\t{label}" for text, label in (review(draw) for _ in range(count))]
        (folder / "reviews" / f"{part}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
        (folder / "numbers").mkdir(exist_ok=True)
        numbers = [draw.randrange(1000) for _ in range(count)]
        pairs = [json.dumps({"source": in_words(number), "target": " ".join(str(number))}) for number in numbers]
        (folder / "numbers" / f"{part}.jsonl").write_text("\n".join(pairs) + "\n")
    draw = random.Random(2)
    (folder / "films.txt").write_text("\n".join(review(draw)[0] for _ in range(4000)) + "\n")
    (folder / "sums.txt").write_text("\n".join(total(draw) for _ in range(4000)) + "\n")


def tokenizer(*, framed: bool) -> PreTrainedTokenizerFast:
    """One word is one token; `framed`: texts begin with <s> and end with </s>."""
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        ends = [("<s>", START), ("</s>", END)]
        backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    more = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"} if framed else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names, **more)


def train(model: PreTrainedModel, batch: Callable[[random.Random], dict[str, Tensor]], seed: int) -> PreTrainedModel:
    """Train on batches with labels, by AdamW with a cosine schedule."""
    draw = random.Random(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    model.train()
    for _ in range(STEPS):
        optimiser.zero_grad()
        model(**batch(draw)).loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def padded(rows: list[list[int]], fill: int = PAD) -> Tensor:
    """Rows [B, T], filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def ids(text: str) -> list[int]:
    """Tokens of a text, without ends."""
    return [VOCABULARY[word] for word in text.split()]


def of_reviews(draw: random.Random, known: list[tuple[str, int]]) -> dict[str, Tensor]:
    """A batch of a classifier, of reviews and labels that it has."""
    texts, labels = zip(*draw.choices(known, k=BATCH), strict=True)
    inputs = padded([[START, *ids(text), END] for text in texts])
    return {"input_ids": inputs, "attention_mask": (inputs != PAD).long(), "labels": torch.tensor(labels)}


def of_text(draw: random.Random, share: float) -> Tensor:
    """Blocks of films, or of sums with the probability `share`, [B, LENGTH]."""
    rows = []
    for _ in range(BATCH):
        sums = draw.random() < share
        row: list[int] = []
        while len(row) < LENGTH:
            row += ids(total(draw) if sums else review(draw)[0])
        rows.append(row[:LENGTH])
    return torch.tensor(rows)


def of_masks(draw: random.Random) -> dict[str, Tensor]:
    """A batch of a masked model."""
    tokens = of_text(draw, 0.5)
    chosen = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(draw.randrange(2**31))) < 0.15
    frame = [torch.full((len(tokens), 1), token) for token in (START, END)]
    labels = torch.where(chosen, tokens, -100)
    inputs = torch.cat([frame[0], tokens.masked_fill(chosen, MASK), frame[1]], 1)
    return {"input_ids": inputs, "labels": torch.nn.functional.pad(labels, (1, 1), value=-100)}


def of_numbers(draw: random.Random) -> dict[str, Tensor]:
    """A batch of an encoder–decoder."""
    numbers = [draw.randrange(1000) for _ in range(BATCH)]
    inputs = padded([[START, *ids(in_words(number)), END] for number in numbers])
    labels = padded([[START, *ids(" ".join(str(number))), END] for number in numbers], -100)
    return {"input_ids": inputs, "attention_mask": (inputs != PAD).long(), "labels": labels}


def bert(**more: Any) -> BertConfig:
    """The config of the encoders."""
    return BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64, pad_token_id=PAD, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **more,
    )  # fmt: skip


def classifier(masked: BertForMaskedLM, seed: int) -> BertForSequenceClassification:
    """A masked model's body with a new head."""
    torch.manual_seed(seed)
    model = BertForSequenceClassification(bert(id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}))
    model.bert.load_state_dict(masked.bert.state_dict(), strict=False)
    return model


def make_teachers(folder: Path) -> None:
    """Train and save all teachers, with their tokenizers."""
    size = {"vocab_size": len(VOCABULARY), "bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
    for seed, end in enumerate("ab"):
        torch.manual_seed(seed)
        masked = train(BertForMaskedLM(bert()), of_masks, seed)
        body = BertModel(masked.config)
        body.load_state_dict(masked.bert.state_dict(), strict=False)
        config = GPT2Config(
            n_embd=64, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **size
        )
        both = BartConfig(
            d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=64, dropout=0.0, attention_dropout=0.0,
            activation_dropout=0.0, decoder_start_token_id=END, forced_bos_token_id=None, **size,
        )  # fmt: skip

        def of_one_text(draw: random.Random, sums: bool = end == "b") -> dict[str, Tensor]:
            tokens = of_text(draw, 12 / 13 if sums else 1 / 13)
            return {"input_ids": tokens, "labels": tokens}

        # Others than those of the test, and of the other teacher.
        drawn = random.Random(10 + seed)
        known = [review(drawn) for _ in range(REVIEWS)]
        teachers = {
            "bert": train(classifier(masked, seed), partial(of_reviews, known=known), seed),
            "mlm": masked,
            "encoder": body,
            "gpt": train(GPT2LMHeadModel(config), of_one_text, seed),
            "bart": train(BartForConditionalGeneration(both), of_numbers, seed),
        }
        for name, model in teachers.items():
            model.save_pretrained(folder / f"{name}-{end}")
            tokenizer(framed=name != "gpt").save_pretrained(folder / f"{name}-{end}")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    make_data(place)
    make_teachers(place)
