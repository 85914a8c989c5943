"""Values of users in messages: short enough to read, whatever was given."""

from __future__ import annotations

import re
import reprlib

#: Characters of a value that a message quotes.
SHOWN = 80
#: Characters of a message, and of a word in it: a path may be long, but nobody reads a word of a page.
LINE, WORD = 2000, 256

_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = SHOWN


def shorten(text: str, limit: int = SHOWN) -> str:
    """The text, its middle left out if it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail - 1]}…{text[-tail:]}"


def quote(value: object, limit: int = SHOWN) -> str:
    """A value as Python writes it, in at most `limit` characters; nothing larger is built on the way."""
    try:
        return shorten(_REPR.repr(value), limit)
    except (ValueError, RecursionError):
        # Python writes no whole number of more than 4300 digits.
        return f"a {type(value).__name__} too large to be written"


def bound_line(text: str) -> str:
    """A message with its overlong words shortened, and cut to `LINE` characters."""
    words = re.sub(rf"\S{{{WORD + 1},}}", lambda word: shorten(word[0], 2 * SHOWN), text)
    return words if len(words) <= LINE else f"{words[: LINE - 1]}…"
