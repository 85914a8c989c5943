"""HTML from nested calls; whatever is no markup already is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

#: Elements without content; those of SVG must be closed all the same, or the next would lie inside.
_VOID = {"img", "meta", "line", "circle", "polyline"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def el(tag: str, *children: object, **attributes: object) -> Markup:
    """An element.

    Args:
        tag: its name.
        *children: markup, or text, which is escaped; None is left out.
        **attributes: `class_` is class, and an underscore is a hyphen; None is left out.
    """
    said = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{said}/>" if tag in _VOID else f"<{tag}{said}>{join_markup(children)}</{tag}>")


def join_markup(children: Iterable[object]) -> Markup:
    """Markup, and text, which is escaped, one after the other; None is left out."""
    shown = (child if isinstance(child, Markup) else escape(str(child)) for child in children if child is not None)
    return Markup("".join(shown))


def markup_table(
    titles: Sequence[str], rows: Iterable[Sequence[object]], *, marked: int | None = None, words: bool = False
) -> Markup:
    """A table that scrolls where it is too wide: words to the left in its first column, numbers to the right.

    Args:
        titles: of the columns.
        rows: their cells.
        marked: the row that stands out.
        words: whether its words break into lines, so that nothing has to scroll.
    """
    head = el("tr", *(el("th", title, scope="col") for title in titles))
    body = [
        el("tr", el("th", first, scope="row"), *(el("td", cell) for cell in cells),
           class_="marked" if index == marked else None)
        for index, (first, *cells) in enumerate(rows)
    ]  # fmt: skip
    # Reached by the keyboard, or it could not be scrolled without a mouse.
    return el(
        "div",
        el("table", el("thead", head), el("tbody", *body), class_="words" if words else None),
        class_="wide",
        tabindex="0",
    )
