"""The padding token of text classifiers: decoders among them answer at the last token that is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from compressor.errors import UnsupportedError
from compressor.models.folder.processors import load_processor
from compressor.models.inputs import classifies_text, pad_id, text_config

#: Names of a tokenizer's tokens that can pad, the best first.
_CANDIDATES = ("pad_token_id", "eos_token_id", "bos_token_id", "sep_token_id", "cls_token_id", "unk_token_id")


@dataclass(frozen=True)
class Padding:
    """A chosen token of padding; `note` tells that the config's could not be used."""

    token: int
    note: str | None


def settle_padding(config: PretrainedConfig, location: str | Path) -> Padding | None:
    """Give a text classifier's config a usable `pad_token_id`, in place; None if it has one.

    The token is one of the tokenizer's that ends no text: the answer must be that of the text alone.
    """
    if not _classifies(config):
        return None
    given = getattr(text_config(config), "pad_token_id", None)
    vocabulary = getattr(text_config(config), "vocab_size", None) or 0
    if isinstance(given, int) and 0 <= given < vocabulary:
        return None
    tokenizer = load_processor(location, config)
    token = next((token for token in _candidates(tokenizer) if 0 <= token < vocabulary), None)
    if token is None:
        token = pad_id(text_config(config))
    set_padding(config, token)
    note = None
    if given is not None:
        note = f"{location} names token {given} for padding, but has {vocabulary} tokens: token {token} pads instead"
    return Padding(token, note)


def set_padding(config: PretrainedConfig, token: int) -> None:
    """Set `pad_token_id`, where the model reads it."""
    config.pad_token_id = text_config(config).pad_token_id = token


def give_padding_token(config: PretrainedConfig, tokenizer: Any) -> None:
    """Name a text classifier's padding token in a tokenizer without a usable one, so that both are saved alike."""
    if not hasattr(tokenizer, "get_vocab") or not _classifies(config):
        return
    # One beyond the embedding, such as a class's default that was added, pads nothing.
    if tokenizer.pad_token is not None and tokenizer.pad_token_id < text_config(config).vocab_size:
        return
    token = tokenizer.convert_ids_to_tokens(pad_id(text_config(config)))
    if token is not None:
        tokenizer.pad_token = token


def _classifies(config: PretrainedConfig) -> bool:
    # Classes without a task are refused later, with a better message.
    with suppress(UnsupportedError):
        return classifies_text(config)
    return False


def _candidates(tokenizer: Any) -> Iterator[int]:
    """Tokens that can pad; those that end a text last."""
    if not hasattr(tokenizer, "get_vocab"):
        return
    try:
        last = tokenizer("a")["input_ids"][-1:]
    # Tokenizers of more than text.
    except (ValueError, TypeError, RuntimeError):
        last = []
    tokens = [token for name in _CANDIDATES if isinstance(token := getattr(tokenizer, name, None), int)]
    yield from (token for token in tokens if token not in last)
    yield from tokens
