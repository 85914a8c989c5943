"""Text, such as names of folders, escaped in Markdown."""

from __future__ import annotations

import re
import unicodedata

# Characters with a meaning in Markdown, HTML, tables and formulas.
_MARKS = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Beginnings of headings and lists.
_BEGINNING = re.compile(r"^\d{1,9}(?=[.)](?:\s|$))|^(?=#{1,6}(?:\s|$)|[+-](?:\s|$)|[-=]+$)")
_ENTITY = re.compile(r"&(?=#?\w+;)")
# Controls, marks of direction, surrogates, line and paragraph separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joiners, used in some scripts and emoji.
_JOINERS = "\u200c\u200d"


def escape_markdown(text: object) -> str:
    """One line without markup, for headings, lists and tables."""
    escaped = _ENTITY.sub("&amp;", visible_line(text)).replace("<", "&lt;").replace(">", "&gt;")
    return _BEGINNING.sub(r"\g<0>\\", _MARKS.sub(r"\\\g<0>", escaped))


def code_span(text: object) -> str:
    """One line as code, for headings and lists."""
    shown = visible_line(text)
    ticks = "`" * (_longest_run(shown) + 1)
    # One space at each end is no part of the text.
    space = " " if shown.startswith(("`", " ")) or shown.endswith(("`", " ")) or not shown else ""
    return f"{ticks}{space}{shown}{space}{ticks}"


def code_block(language: str, text: str) -> str:
    """A fenced block of code that no line of the text ends."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def visible_line(text: object) -> str:
    """A text with line breaks and invisible characters replaced."""
    return "".join(map(_visible, " ".join(str(text).split())))


def _visible(sign: str) -> str:
    return "\ufffd" if unicodedata.category(sign) in _INVISIBLE and sign not in _JOINERS else sign


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
