"""Text in Markdown: names of folders and classes are shown as they are, whatever characters they hold."""

from __future__ import annotations

import re
import unicodedata

# What Markdown, the HTML inside it, tables and formulas give a meaning to.
_MARKS = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# What begins a heading or a list.
_BEGINNING = re.compile(r"^\d{1,9}(?=[.)](?:\s|$))|^(?=#{1,6}(?:\s|$)|[+-](?:\s|$)|[-=]+$)")
_ENTITY = re.compile(r"&(?=#?\w+;)")
# Controls, marks that reverse the order of letters, halves of letters, line and paragraph separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joiners, which some scripts and emoji are written with.
_JOINERS = "\u200c\u200d"


def plain(text: object) -> str:
    """A text on one line that is no markup, in a heading, a list or a table."""
    escaped = _ENTITY.sub("&amp;", one_line(text)).replace("<", "&lt;").replace(">", "&gt;")
    return _BEGINNING.sub(r"\g<0>\\", _MARKS.sub(r"\\\g<0>", escaped))


def code(text: object) -> str:
    """A text on one line in the typeface of code, in a heading or a list."""
    shown = one_line(text)
    ticks = "`" * (_longest_run(shown) + 1)
    # One space at each end is no part of the text.
    space = " " if shown.startswith(("`", " ")) or shown.endswith(("`", " ")) or not shown else ""
    return f"{ticks}{space}{shown}{space}{ticks}"


def fence(language: str, text: str) -> str:
    """A block of code that only its own last line ends."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def one_line(text: object) -> str:
    """A text with spaces for line breaks, and signs for characters that are not seen."""
    return "".join(map(_seen, " ".join(str(text).split())))


def _seen(sign: str) -> str:
    return "\ufffd" if unicodedata.category(sign) in _UNSEEN and sign not in _JOINERS else sign


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
