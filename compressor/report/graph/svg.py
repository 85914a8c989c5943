"""A flow graph as SVG."""

from __future__ import annotations

from pathlib import Path

from compressor.errors import UserError
from compressor.report.graph.layout import Picture, lay_out
from compressor.report.graph.parts import EdgeMap, MapKind, ModelGraph, NodeShape
from compressor.report.graph.placement import (
    INDEX_SIZE,
    LABEL_SIZE,
    NAME_SIZE,
    NOTE_SIZE,
    label_text,
    label_width,
)
from compressor.report.templates import render_template
from compressor.report.text_width import text_width
from compressor.utils import files

_INK, _SOFT = "#1f2937", "#64748b"
_COLOURS = {
    MapKind.STREAM: "#1d4ed8",
    MapKind.BRANCH: "#0e8ba8",
    MapKind.QUERY_KEY: "#c2410c",
    MapKind.VALUE: "#15803d",
    MapKind.HIDDEN: "#9333ea",
    MapKind.EMBEDDING: "#a16207",
    MapKind.EXPERTS: "#be185d",
    MapKind.FIXED: "#6b7280",
}
#: Fill, outline and corner radius of nodes.
_STYLES = {
    NodeShape.WEIGHT: ("#ffffff", "#334155", 5),
    NodeShape.NORM: ("#fef9c3", "#a18a2c", 5),
    NodeShape.OPERATION: ("#e2e8f0", "#64748b", 14),
    NodeShape.SUM: ("#ffffff", _INK, 10),
    NodeShape.GAP: ("#f1f5f9", "#94a3b8", 12),
    NodeShape.END: ("none", "none", 0),
}
_TITLE = 16.0
_LINE = 20.0
#: Minimal width of a picture, for two or three entries of the legend per row.
_MIN_WIDTH = 720.0
_MARGIN, _LEGEND_GAP = 24.0, 28.0


def draw_svg(graph: ModelGraph) -> str:
    """The SVG document of a graph."""
    picture = lay_out(graph)
    texts = [(graph.title, _TITLE), *((line, LABEL_SIZE) for line in graph.subtitle.split("\n"))]
    width = max([picture.width, *(text_width(text, size) + 2 * _MARGIN for text, size in texts), _MIN_WIDTH])
    rows = _legend_rows(_legend(picture, graph.cut), width)
    header = _MARGIN + (len(texts) + len(rows)) * _LINE + 16
    baselines = [_MARGIN + 12 + index * _LINE for index in range(len(texts) + len(rows))]
    return render_template(
        "compressor.report.graph", "graph.svg.j2", graph=graph, picture=picture, width=width,
        height=picture.height + header, left=_MARGIN, lines=zip(texts, baselines, strict=False),
        across=lambda x: x + (width - picture.width) / 2, down=lambda y: header + picture.top - y,
        legend=[(*entry, x, y) for row, y in zip(rows, baselines[len(texts) :], strict=True) for entry, x in row],
        sizes={"title": _TITLE, "name": NAME_SIZE, "note": NOTE_SIZE, "label": LABEL_SIZE, "index": INDEX_SIZE},
        styles=_STYLES, colours=_COLOURS, ink=_INK, soft=_SOFT, label_text=label_text, label_width=label_width,
    )  # fmt: skip


def check_drawing_file(path: Path, force: bool) -> None:
    """Check that an SVG file can be written.

    Raises:
        UserError: another suffix; or as `check_file`.
    """
    if path.suffix.lower() != ".svg":
        raise UserError(f"{path}: a graph is written as SVG, so give a file name that ends in .svg")
    files.check_file(path, force)


def write_drawing(path: Path, text: str, force: bool) -> None:
    """Write a file atomically.

    Raises:
        UserError: as `check_drawing_file`, or the system refuses.
    """
    check_drawing_file(path, force)
    try:
        files.atomic_write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _legend(picture: Picture, cut: bool) -> list[tuple[EdgeMap, str]]:
    """A map of every kind, with description; `cut`: a new map after every sum."""
    descriptions = {
        MapKind.STREAM: f"residual stream: {'a new map after every sum' if cut else 'one map'}",
        MapKind.BRANCH: "branch: added to the stream by a sum",
        MapKind.QUERY_KEY: "queries and keys: heads × channels",
        MapKind.VALUE: "values and attention output",
        MapKind.HIDDEN: "hidden units",
        MapKind.EMBEDDING: "embedding",
        MapKind.EXPERTS: "experts",
        MapKind.FIXED: "no map: the order of logits is fixed",
    }
    first: dict[MapKind, EdgeMap] = {}
    for route in picture.routes:
        first.setdefault(route.edge_map.kind, route.edge_map)
    return [(first[kind], text) for kind, text in descriptions.items() if kind in first]


def _legend_rows(legend: list[tuple[EdgeMap, str]], width: float) -> list[list[tuple[tuple[EdgeMap, str], float]]]:
    """Entries with left ends, in rows."""
    rows: list[list[tuple[tuple[EdgeMap, str], float]]] = []
    x = width
    for entry in legend:
        needed = 34 + label_width(entry[0]) + text_width(f" {entry[1]}", LABEL_SIZE)
        if x + needed > width - _MARGIN:
            rows.append([])
            x = _MARGIN
        rows[-1].append((entry, x))
        x += needed + _LEGEND_GAP
    return rows
