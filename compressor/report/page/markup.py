"""HTML from nested calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

#: Elements without content; those of SVG must be closed too, or the next element would be inside.
_VOID = {"img", "meta", "line", "circle", "polyline"}


class Markup(str):
    """HTML, which is not escaped again."""

    __slots__ = ()


def el(tag: str, *children: object, **attributes: object) -> Markup:
    """An element; None is skipped, `class_` means class, underscores mean hyphens."""
    rendered = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{rendered}/>" if tag in _VOID else f"<{tag}{rendered}>{join_markup(children)}</{tag}>")


def join_markup(children: Iterable[object]) -> Markup:
    """Concatenated markup and escaped text, without None."""
    parts = (child if isinstance(child, Markup) else escape(str(child)) for child in children if child is not None)
    return Markup("".join(parts))


def markup_table(
    titles: Sequence[str], rows: Iterable[Sequence[object]], *, marked: int | None = None, words: bool = False
) -> Markup:
    """A table that scrolls sideways, or wraps if `words`; row `marked` is highlighted."""
    head = el("tr", *(el("th", title, scope="col") for title in titles))
    body = [
        el("tr", el("th", first, scope="row"), *(el("td", cell) for cell in cells),
           class_="marked" if index == marked else None)
        for index, (first, *cells) in enumerate(rows)
    ]  # fmt: skip
    # `tabindex` makes it scroll by keyboard.
    return el(
        "div",
        el("table", el("thead", head), el("tbody", *body), class_="words" if words else None),
        class_="wide",
        tabindex="0",
    )
