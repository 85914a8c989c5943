"""A flow graph as SVG."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from compressor.errors import UserError
from compressor.report.graph.layout import Caption, Panel, lay_out
from compressor.report.graph.parts import EdgeMap, MapKind, ModelGraph, NodeShape
from compressor.report.graph.placement import (
    INDEX_SIZE,
    LABEL_SIZE,
    NAME_SIZE,
    NOTE_SIZE,
    LinkRoute,
    PlacedNode,
    label_text,
    label_width,
    text_width,
)
from compressor.utils import files

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
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
    lines = [(graph.title, _TITLE), *((line, LABEL_SIZE) for line in graph.subtitle.split("\n"))]
    width = max([picture.width, *(text_width(text, size) + 2 * _MARGIN for text, size in lines), _MIN_WIDTH])
    legend = _legend_rows(_legend(graph), width)
    header = _MARGIN + (len(lines) + len(legend)) * _LINE + 16
    shift = (width - picture.width) / 2
    picture.transform(lambda x, y: (x + shift, y + header))
    body = [_caption(Caption(text, _MARGIN, _MARGIN + 12 + i * _LINE, size)) for i, (text, size) in enumerate(lines)]
    for i, row in enumerate(legend):
        body += [_sample(*entry, x, _MARGIN + 12 + (len(lines) + i) * _LINE) for entry, x in row]
    body += [_panel(panel) for panel in picture.panels]
    body += [_route(route) for route in picture.routes]
    body += [_label(route) for route in picture.routes]
    body += [_circle(x, y, 3, _COLOURS[edge_map.kind]) for (x, y), edge_map in picture.dots]
    body += [_node(node) for node in picture.nodes]
    body += [_caption(caption) for caption in picture.captions]
    box = f'width="{width:.0f}" height="{picture.height + header:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {width:.0f} {picture.height + header:.0f}"'
            f' role="img" font-family={quoteattr(_FONT)}>',
            f"<title>{escape(graph.title)}</title>",
            f"<defs>{''.join(_marker(kind) for kind in _COLOURS)}</defs>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        ]
    )


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


def _legend(graph: ModelGraph) -> list[tuple[EdgeMap, str]]:
    """A map of every kind, with description."""
    descriptions = {
        MapKind.STREAM: f"residual stream: {'a new map after every sum' if graph.cut else 'one map'}",
        MapKind.BRANCH: "branch: added to the stream by a sum",
        MapKind.QUERY_KEY: "queries and keys: heads × channels",
        MapKind.VALUE: "values and attention output",
        MapKind.HIDDEN: "hidden units",
        MapKind.EMBEDDING: "embedding",
        MapKind.EXPERTS: "experts",
        MapKind.FIXED: "no map: the order of logits is fixed",
    }
    first: dict[MapKind, EdgeMap] = {}
    for edge_map in graph.edge_maps:
        first.setdefault(edge_map.kind, edge_map)
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


def _sample(edge_map: EdgeMap, text: str, x: float, y: float) -> str:
    line = f'<path d="M{x:g} {y - 4:g}h24" stroke="{_COLOURS[edge_map.kind]}" stroke-width="{_thickness(edge_map):g}"/>'
    words = x + 34 + label_width(edge_map)
    return (
        f'<g class="legend">{line}{_mark(edge_map, x + 29, y)}'
        f'<text x="{words:g}" y="{y:g}" font-size="{LABEL_SIZE:g}" fill="{_INK}">{escape(text)}</text></g>'
    )


def _marker(kind: MapKind) -> str:
    return (
        f'<marker id="arrow-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.8L8 4L0 7.2z" fill="{_COLOURS[kind]}"/></marker>'
    )


def _panel(panel: Panel) -> str:
    return (
        f'<g class="layer"><title>{escape(panel.tip)}</title><rect x="{panel.left:g}" y="{panel.top:g}" '
        f'width="{panel.width:g}" height="{panel.height:g}" rx="10" fill="#f8fafc" stroke="#e2e8f0"/>'
        f'<text x="{panel.left + 12:g}" y="{panel.top + 18:g}" font-size="{LABEL_SIZE:g}" font-weight="600" '
        f'fill="{_SOFT}">{escape(panel.title)}</text></g>'
    )


def _route(route: LinkRoute) -> str:
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in route.points)
    arrow = f' marker-end="url(#arrow-{route.edge_map.kind})"' if route.arrow else ""
    line = f'stroke="{_COLOURS[route.edge_map.kind]}" stroke-width="{_thickness(route.edge_map):g}"'
    # A wide invisible line makes hovering easier.
    return (
        f'<g class="edge">{_tip(route.edge_map)}<path d="{path}" fill="none" stroke="#000" stroke-opacity="0" '
        f'stroke-width="12"/><path d="{path}" fill="none" stroke-linejoin="round" {line}{arrow}/></g>'
    )


def _label(route: LinkRoute) -> str:
    if route.label is None:
        return ""
    x, y = route.label
    return f'<g class="label">{_tip(route.edge_map)}{_mark(route.edge_map, x, y + 4, route.word)}</g>'


def _mark(edge_map: EdgeMap, x: float, y: float, word: str = "") -> str:
    """The T of a map."""
    subscript = edge_map.index.rstrip("′")
    rest = edge_map.index.removeprefix(subscript) + (f"\N{NO-BREAK SPACE}{word}" if word else "")
    index = f'<tspan font-size="{INDEX_SIZE:g}" dy="3">{escape(subscript)}</tspan>' if subscript else ""
    after = f'<tspan dy="{-3 if subscript else 0}">{escape(rest)}</tspan>' if rest else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{LABEL_SIZE:g}" font-weight="600" fill="{_COLOURS[edge_map.kind]}">'
        f"{label_text(edge_map)}{index}{after}</text>"
    )


def _tip(edge_map: EdgeMap) -> str:
    if edge_map.key is None:
        return "<title>no map</title>"
    return f"<title>{escape(edge_map.key)}\n{escape(edge_map.kind)} map, {edge_map.size}</title>"


def _thickness(edge_map: EdgeMap) -> float:
    return 2.4 if edge_map.kind is MapKind.STREAM else 1.6


def _node(placed: PlacedNode) -> str:
    node = placed.node
    fill, line, rounding = _STYLES[node.shape]
    tip = f"<title>{escape(node.tip)}</title>" if node.tip else ""
    if node.shape is NodeShape.SUM:
        cross = f"M{placed.x - 5:g} {placed.y:g}h10M{placed.x:g} {placed.y - 5:g}v10"
        return (
            f'<g class="node">{tip}{_circle(placed.x, placed.y, 10, fill, line)}'
            f'<path d="{cross}" stroke="{line}" stroke-width="1.6"/></g>'
        )
    dashes = ' stroke-dasharray="4 3"' if node.shape is NodeShape.GAP else ""
    rect = (
        f'<rect x="{placed.left:g}" y="{placed.y - placed.height / 2:g}" width="{placed.width:g}" '
        f'height="{placed.height:g}" rx="{rounding}" fill="{fill}" stroke="{line}"{dashes}/>'
    )
    first = placed.y - placed.height / 2 + 16
    lines = [_caption(Caption(node.text, placed.x, first, NAME_SIZE, centred=True))]
    for index, note in enumerate(node.notes, 1):
        lines.append(_caption(Caption(note, placed.x, first + 13 * index, NOTE_SIZE, centred=True)))
    return f'<g class="node">{tip}{rect}{"".join(lines)}</g>'


def _circle(x: float, y: float, radius: float, fill: str, line: str = "none") -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{line}" stroke-width="1.4"/>'


def _caption(caption: Caption) -> str:
    anchor = ' text-anchor="middle"' if caption.centred else ""
    weight = ' font-weight="700"' if caption.size == _TITLE else ""
    fill = _SOFT if caption.size < NAME_SIZE else _INK
    return (
        f'<text x="{caption.x:g}" y="{caption.y:g}" font-size="{caption.size:g}" fill="{fill}"{anchor}{weight}>'
        f"{escape(caption.text)}</text>"
    )
