"""A flow graph as SVG: colours, type, a legend, and the file."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from compressor.errors import UserError
from compressor.report.graph.layout import Caption, Panel, lay_out
from compressor.report.graph.parts import CarriedValue, Flows, ModelGraph, SizeChange
from compressor.report.graph.placement import (
    INDEX,
    LABEL,
    NAME,
    NOTE,
    LinkRoute,
    Placed,
    label_text,
    label_width,
    text_width,
)
from compressor.utils import files

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
_INK, _SOFT = "#1f2937", "#64748b"
_COLOURS = {
    Flows.STREAM: "#1d4ed8",
    Flows.BRANCH: "#0e8ba8",
    Flows.QUERY_KEY: "#c2410c",
    Flows.VALUE: "#15803d",
    Flows.HIDDEN: "#9333ea",
    Flows.EMBEDDING: "#a16207",
    Flows.EXPERTS: "#be185d",
    Flows.FIXED: "#6b7280",
}
#: Fill, line and rounding of the nodes.
_LOOKS = {
    SizeChange.WEIGHT: ("#ffffff", "#334155", 5),
    SizeChange.NORM: ("#fef9c3", "#a18a2c", 5),
    SizeChange.OPERATION: ("#e2e8f0", "#64748b", 14),
    SizeChange.SUM: ("#ffffff", _INK, 10),
    SizeChange.GAP: ("#f1f5f9", "#94a3b8", 12),
    SizeChange.END: ("none", "none", 0),
}
_TITLE = 16.0
_LINE = 20.0
#: The least width of a picture: two or three entries of the legend in a row.
_LEAST = 720.0
_MARGIN, _LEGEND_GAP = 24.0, 28.0


def draw_svg(graph: ModelGraph) -> str:
    """The SVG document of a graph."""
    picture = lay_out(graph)
    lines = [(graph.title, _TITLE), *((line, LABEL) for line in graph.subtitle.split("\n"))]
    width = max([picture.width, *(text_width(text, size) + 2 * _MARGIN for text, size in lines), _LEAST])
    legend = _rows(_legend(graph), width)
    header = _MARGIN + (len(lines) + len(legend)) * _LINE + 16
    shift = (width - picture.width) / 2
    picture.move(lambda x, y: (x + shift, y + header))
    body = [_caption(Caption(text, _MARGIN, _MARGIN + 12 + i * _LINE, size)) for i, (text, size) in enumerate(lines)]
    for i, row in enumerate(legend):
        body += [_sample(*entry, x, _MARGIN + 12 + (len(lines) + i) * _LINE) for entry, x in row]
    body += [_panel(panel) for panel in picture.panels]
    body += [_route(route) for route in picture.routes]
    body += [_label(route) for route in picture.routes]
    body += [_circle(x, y, 3, _COLOURS[carried.flows]) for (x, y), carried in picture.dots]
    body += [_node(place) for place in picture.nodes]
    body += [_caption(caption) for caption in picture.captions]
    box = f'width="{width:.0f}" height="{picture.height + header:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {width:.0f} {picture.height + header:.0f}"'
            f' role="img" font-family={quoteattr(_FONT)}>',
            f"<title>{escape(graph.title)}</title>",
            f"<defs>{''.join(_marker(flows) for flows in _COLOURS)}</defs>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        ]
    )


def check_drawing_file(path: Path, force: bool) -> None:
    """Refuse a file that cannot or must not be written, before any work is done.

    Raises:
        UserError: it is no .svg; or as of `compressor.utils.files.check_file`.
    """
    if path.suffix.lower() != ".svg":
        raise UserError(f"{path}: a graph is written as SVG, so give a file name that ends in .svg")
    files.check_file(path, force)


def write_drawing(path: Path, text: str, force: bool) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: as of `check_drawing_file`, or the system does not let it be written.
    """
    check_drawing_file(path, force)
    try:
        files.atomic_write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _legend(graph: ModelGraph) -> list[tuple[CarriedValue, str]]:
    """An example of every sort of map that there is, and what it is."""
    told = {
        Flows.STREAM: "residual stream: a new map behind every sum"
        if graph.cut
        else "residual stream: one map for all of it",
        Flows.BRANCH: "branch: what a sum adds to the stream",
        Flows.QUERY_KEY: "queries and keys: heads × channels",
        Flows.VALUE: "values and attention output",
        Flows.HIDDEN: "hidden units",
        Flows.EMBEDDING: "embedding",
        Flows.EXPERTS: "experts",
        Flows.FIXED: "no map: logits keep their places",
    }
    first: dict[Flows, CarriedValue] = {}
    for carried in graph.carried:
        first.setdefault(carried.flows, carried)
    return [(first[flows], text) for flows, text in told.items() if flows in first]


def _rows(legend: list[tuple[CarriedValue, str]], width: float) -> list[list[tuple[tuple[CarriedValue, str], float]]]:
    """Entries with where they begin, as many in a row as there is room for."""
    rows: list[list[tuple[tuple[CarriedValue, str], float]]] = []
    x = width
    for entry in legend:
        needed = 34 + label_width(entry[0]) + text_width(f" {entry[1]}", LABEL)
        if x + needed > width - _MARGIN:
            rows.append([])
            x = _MARGIN
        rows[-1].append((entry, x))
        x += needed + _LEGEND_GAP
    return rows


def _sample(carried: CarriedValue, text: str, x: float, y: float) -> str:
    line = f'<path d="M{x:g} {y - 4:g}h24" stroke="{_COLOURS[carried.flows]}" stroke-width="{_thickness(carried):g}"/>'
    words = x + 34 + label_width(carried)
    return (
        f'<g class="legend">{line}{_mark(carried, x + 29, y)}'
        f'<text x="{words:g}" y="{y:g}" font-size="{LABEL:g}" fill="{_INK}">{escape(text)}</text></g>'
    )


def _marker(flows: Flows) -> str:
    return (
        f'<marker id="arrow-{flows}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.8L8 4L0 7.2z" fill="{_COLOURS[flows]}"/></marker>'
    )


def _panel(panel: Panel) -> str:
    return (
        f'<g class="layer"><title>{escape(panel.tip)}</title><rect x="{panel.left:g}" y="{panel.top:g}" '
        f'width="{panel.width:g}" height="{panel.height:g}" rx="10" fill="#f8fafc" stroke="#e2e8f0"/>'
        f'<text x="{panel.left + 12:g}" y="{panel.top + 18:g}" font-size="{LABEL:g}" font-weight="600" '
        f'fill="{_SOFT}">{escape(panel.title)}</text></g>'
    )


def _route(route: LinkRoute) -> str:
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in route.points)
    arrow = f' marker-end="url(#arrow-{route.carried.flows})"' if route.arrow else ""
    line = f'stroke="{_COLOURS[route.carried.flows]}" stroke-width="{_thickness(route.carried):g}"'
    # A wide line that is not seen is easier to rest the pointer on.
    return (
        f'<g class="edge">{_tip(route.carried)}<path d="{path}" fill="none" stroke="#000" stroke-opacity="0" '
        f'stroke-width="12"/><path d="{path}" fill="none" stroke-linejoin="round" {line}{arrow}/></g>'
    )


def _label(route: LinkRoute) -> str:
    if route.label is None:
        return ""
    x, y = route.label
    return f'<g class="label">{_tip(route.carried)}{_mark(route.carried, x, y + 4, route.word)}</g>'


def _mark(carried: CarriedValue, x: float, y: float, word: str = "") -> str:
    """The T of a map, with its index and a word behind it."""
    low = carried.index.rstrip("′")
    high = carried.index.removeprefix(low) + (f"\N{NO-BREAK SPACE}{word}" if word else "")
    index = f'<tspan font-size="{INDEX:g}" dy="3">{escape(low)}</tspan>' if low else ""
    rest = f'<tspan dy="{-3 if low else 0}">{escape(high)}</tspan>' if high else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{LABEL:g}" font-weight="600" fill="{_COLOURS[carried.flows]}">'
        f"{label_text(carried)}{index}{rest}</text>"
    )


def _tip(carried: CarriedValue) -> str:
    if carried.key is None:
        return "<title>no map</title>"
    return f"<title>{escape(carried.key)}\n{escape(carried.flows)} map, {carried.size}</title>"


def _thickness(carried: CarriedValue) -> float:
    return 2.4 if carried.flows is Flows.STREAM else 1.6


def _node(place: Placed) -> str:
    node = place.node
    fill, line, rounding = _LOOKS[node.shape]
    tip = f"<title>{escape(node.tip)}</title>" if node.tip else ""
    if node.shape is SizeChange.SUM:
        cross = f"M{place.x - 5:g} {place.y:g}h10M{place.x:g} {place.y - 5:g}v10"
        return (
            f'<g class="node">{tip}{_circle(place.x, place.y, 10, fill, line)}'
            f'<path d="{cross}" stroke="{line}" stroke-width="1.6"/></g>'
        )
    dashes = ' stroke-dasharray="4 3"' if node.shape is SizeChange.GAP else ""
    rect = (
        f'<rect x="{place.left:g}" y="{place.y - place.height / 2:g}" width="{place.width:g}" '
        f'height="{place.height:g}" rx="{rounding}" fill="{fill}" stroke="{line}"{dashes}/>'
    )
    first = place.y - place.height / 2 + 16
    lines = [_caption(Caption(node.text, place.x, first, NAME, centred=True))]
    lines += [
        _caption(Caption(note, place.x, first + 13 * (i + 1), NOTE, centred=True)) for i, note in enumerate(node.notes)
    ]
    return f'<g class="node">{tip}{rect}{"".join(lines)}</g>'


def _circle(x: float, y: float, radius: float, fill: str, line: str = "none") -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{line}" stroke-width="1.4"/>'


def _caption(caption: Caption) -> str:
    anchor = ' text-anchor="middle"' if caption.centred else ""
    weight = ' font-weight="700"' if caption.size == _TITLE else ""
    fill = _SOFT if caption.size < NAME else _INK
    return (
        f'<text x="{caption.x:g}" y="{caption.y:g}" font-size="{caption.size:g}" fill="{fill}"{anchor}{weight}>'
        f"{escape(caption.text)}</text>"
    )
