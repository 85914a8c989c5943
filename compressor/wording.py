"""Words of messages, and short quotes of users' values in them."""

from __future__ import annotations

import re
import reprlib

#: Most characters of a quoted value.
_QUOTE_LENGTH = 80
#: Most characters of a message, and of a word in it.
_MESSAGE_LENGTH, _WORD_LENGTH = 2000, 256

_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _QUOTE_LENGTH


def shorten(text: str, limit: int = _QUOTE_LENGTH) -> str:
    """Cut the middle of a text longer than `limit` characters."""
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail - 1]}…{text[-tail:]}"


def quote(value: object, limit: int = _QUOTE_LENGTH) -> str:
    """Python's spelling of a value in at most `limit` characters; builds no longer text."""
    try:
        # A message has one line, whatever the value.
        return shorten(" ".join(_REPR.repr(value).splitlines()), limit)
    except (ValueError, RecursionError):
        # Python writes at most 4300 digits.
        return f"a {type(value).__name__} too large to be written"


def bound_line(text: str) -> str:
    """Shorten a message's overlong words, and the message."""
    words = re.sub(rf"\S{{{_WORD_LENGTH + 1},}}", lambda word: shorten(word[0], 2 * _QUOTE_LENGTH), text)
    return words if len(words) <= _MESSAGE_LENGTH else f"{words[: _MESSAGE_LENGTH - 1]}…"
