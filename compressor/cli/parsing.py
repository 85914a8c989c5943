"""Parsers of flags."""

from __future__ import annotations

from typing import Any

from compressor.errors import UserError


def split_list(text: str) -> tuple[str, ...]:
    """Parts of a list, as typed."""
    return tuple(part.strip() for part in text.split(","))


def split_names(text: str) -> tuple[str, ...]:
    """Parts of a list, each once."""
    return tuple(dict.fromkeys(split_list(text)))


def split_counts(name: str, text: str) -> tuple[int, ...]:
    """Positive integers of a list, each once.

    Raises:
        UserError: another part; names the flag.
    """
    parts = split_names(text)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{name}: give whole numbers above 0, such as 1,32, not {text!r}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def parse_weights(text: str) -> str | tuple[str, ...]:
    """One weight per teacher, or "auto" or "equal"."""
    return text if text in ("auto", "equal") else split_list(text)


def parse_losses(text: str) -> str | dict[str, str]:
    """NAME=WEIGHT,... as a mapping, empty for "none"; or "auto"."""
    if text == "auto":
        return text
    if text == "none":
        return {}
    return parse_shares(text)


def parse_shares(text: str) -> dict[str, str]:
    """NAME=NUMBER,... as a mapping."""
    parts = (part.partition("=") for part in text.split(","))
    return {name.strip(): share.strip() for name, _, share in parts}


def parse_depth(text: str) -> int | float | str:
    """Number or share of layers; the recipe refuses other text."""
    if text.isdigit():
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def parse_eval_samples(text: str) -> int | None:
    """Number of samples; None for "all".

    Raises:
        UserError: neither.
    """
    if text == "all":
        return None
    if not text.isdigit():
        raise UserError(f"--eval-samples: give a number of samples or all, not {text!r}")
    return int(text)


def switched_off(value: Any) -> bool:
    """The field's value for --no-..., or its opposite."""
    return not value
