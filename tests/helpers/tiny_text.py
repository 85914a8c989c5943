"""Makers of tiny text models, their tokenizers and their data; offline, in milliseconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>")
WORDS = ("the", "a", "good", "bad", "dull", "fine", "film", "plot", "actor", "scene", "is", "was", "and", "very", ".")
VOCABULARY = (*SPECIAL, *WORDS, "\n")
TAGS = ("O", "PER", "LOC")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
COMMON = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, "initializer_range": 0.3}


def tokenizer(framed=True, pad=True, length=64):
    """A word tokenizer; `framed` sets [CLS] and [SEP] around a text, `pad` has a padding token."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex("\n"), "isolated")]
    )
    if framed:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", VOCABULARY.index("[CLS]")), ("[SEP]", VOCABULARY.index("[SEP]"))],
        )
    named = {"unk_token": "[UNK]", "eos_token": "</s>"}
    if framed:
        named |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    if pad:
        named["pad_token"] = "[PAD]"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **named,
    )


def _bert(architecture, **more):
    from transformers import BertConfig

    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertConfig(
        max_position_embeddings=32, architectures=[architecture], **dropout, **{**SIZES, **COMMON, **more}
    )


def _names(labels):
    return {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}


def config_of(kind, **more):
    """A tiny config: classifier, tagger, questions, choices, masked, features, decoder, llama, bart or t5."""
    from transformers import BartConfig, GPT2Config, LlamaConfig, T5Config

    decoder = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    decoder |= {"attn_pdrop": 0.0, "bos_token_id": 5, "eos_token_id": 5, "initializer_range": 0.3}
    both = {"d_model": 32, "pad_token_id": 0, "eos_token_id": 5, "decoder_start_token_id": 5, "dropout": 0.0}
    made = {
        "classifier": lambda: _bert("BertForSequenceClassification", **_names(("negative", "positive")), **more),
        "tagger": lambda: _bert("BertForTokenClassification", **_names(TAGS), **more),
        "questions": lambda: _bert("BertForQuestionAnswering", **more),
        "choices": lambda: _bert("BertForMultipleChoice", **more),
        "masked": lambda: _bert("BertForMaskedLM", **more),
        "features": lambda: _bert("BertModel", **more),
        "decoder": lambda: GPT2Config(
            vocab_size=len(VOCABULARY), architectures=["GPT2LMHeadModel"], **{**decoder, **more}
        ),
        "llama": lambda: LlamaConfig(
            max_position_embeddings=32, architectures=["LlamaForCausalLM"], **SIZES, **{**COMMON, **more}
        ),
        "bart": lambda: BartConfig(
            vocab_size=len(VOCABULARY), max_position_embeddings=32, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.3,
            bos_token_id=5, attention_dropout=0.0, activation_dropout=0.0,
            architectures=["BartForConditionalGeneration"], **{**both, **more},
        ),
        "t5": lambda: T5Config(
            vocab_size=len(VOCABULARY), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
            pad_token_id=0, eos_token_id=5, decoder_start_token_id=0, architectures=["T5ForConditionalGeneration"],
        ),
    }  # fmt: skip
    return made[kind]()


def model_of(kind, seed=0, **more):
    """A tiny model of random weights, in eval mode."""
    import torch
    import transformers

    config = config_of(kind, **more)
    torch.manual_seed(seed)
    return getattr(transformers, config.architectures[0])(config).eval()


def save_text_model(folder, kind, *, seed=0, with_tokenizer=True, **more):
    """A tiny model saved with a tokenizer that fits it."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model_of(kind, seed, **more).save_pretrained(folder)
    if with_tokenizer:
        encoder = kind in ("classifier", "tagger", "questions", "choices", "masked", "features")
        tokenizer(framed=encoder, pad=kind not in ("decoder", "llama")).save_pretrained(folder)
    return Path(folder)


def sentences(count, seed=0, longest=12):
    """Random sentences of random lengths."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(count)]


def save_sentences(root, train=24, test=10, header=False):
    """train.tsv and test.tsv of sentences with the labels 0 and 1."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": train, "test": test}.items()):
        lines = [f"{text}\t{int('good' in text)}" for text in sentences(count, seed)]
        (root / f"{name}.tsv").write_text("\n".join([*(["sentence\tlabel"] if header else []), *lines]) + "\n")
    return root


def save_words(path, count=20):
    """jsonl of lists of words with their tags by name."""
    rows = []
    for text in sentences(count, 3):
        words = text.split()
        tags = ["PER" if word == "actor" else "LOC" if word == "scene" else "O" for word in words]
        rows.append(json.dumps({"tokens": words, "tags": tags}))
    Path(path).write_text("\n".join(rows) + "\n")
    return Path(path)


def save_plain(path, lines=200):
    """Plain text, a sentence a line and some empty lines."""
    text = "\n".join(line if index % 7 else line + "\n" for index, line in enumerate(sentences(lines, 5)))
    Path(path).write_text(text + "\n")
    return Path(path)


def save_translations(path, count=24):
    """jsonl of a source and a shorter target."""
    texts = sentences(count, 9)
    rows = [json.dumps({"source": text, "target": " ".join(text.split()[::2])}) for text in texts]
    Path(path).write_text("\n".join(rows) + "\n")
    return Path(path)
