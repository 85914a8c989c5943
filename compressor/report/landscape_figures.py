"""Pictures of scores in weight space, drawn with matplotlib, and what a terminal says of them.

Figures are made without pyplot, so neither a backend nor a setting of whoever imports this is touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from compressor.bench.rows import MISSING, format_perplexity
from compressor.errors import UserError
from compressor.report.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Files that can be drawn.
SUFFIXES = (".svg", ".png")
#: Dots an inch, of which a browser shows 96 of an SVG too; so no picture is wider than 1280.
_DPI = 96
_WIDTH = 1280 / _DPI
#: Inches around a map: its bar of colours and what is written on its sides.
_AROUND = (2.8, 1.8)
#: Points (1/72 inch) of small and large letters.
_SMALL, _LARGE = 13, 17
#: Steps of colour.
_LEVELS = 14
#: Perplexities beyond this many times the worst model's share one colour: far off they have no bound.
_BEYOND = 10.0
#: Of the three models, in their order.
_MARKERS = ("s", "o", "^")

Found = Mapping[str, Any]


def check_plots() -> None:
    """Refuse to begin what could not be drawn.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'compressor[plots]'") from None


def draw_plane(found: Found, path: Path) -> None:
    """Draw a contour map of the scores over a plane, with the three models on it.

    Args:
        found: what `compressor.pipeline.landscape.landscape` has measured.
        path: an .svg or .png file.
    """
    from matplotlib.patheffects import withStroke

    xs, ys = found["xs"], found["ys"]
    # In true proportion, as large as fits, but never so small that the writing does not.
    ratio = (ys[-1] - ys[0]) / (xs[-1] - xs[0])
    width = min(_WIDTH - _AROUND[0], (_WIDTH - _AROUND[1]) / ratio)
    figure = _figure(max(width + _AROUND[0], 0.7 * _WIDTH), max(width * ratio + _AROUND[1], 0.3 * _WIDTH))
    axes = figure.add_subplot()
    axes.set_facecolor("lightgrey")
    _contours(figure, axes, found)
    across, up = zip(*((x, y) for y in ys for x in xs), strict=True)
    axes.plot(across, up, ".", color="black", alpha=0.25, markersize=3)
    stroke = [withStroke(linewidth=4, foreground="black")]
    models = found["models"]
    close = models[1]["x"] - models[0]["x"] < 0.2 * (xs[-1] - xs[0])
    # The first two lie at the bottom, side by side, and the third above them.
    for model, marker, side in zip(models, _MARKERS, ("right", "left", "center"), strict=True):
        x, y = model["x"], model["y"]
        axes.plot(x, y, marker, color="white", markeredgecolor="black", markersize=13, markeredgewidth=2, zorder=3)
        axes.annotate(
            f"{model['name']}\n{format_score(model['score'], found['metric'])}",
            (x, y),
            (0, 14 if y > 0 else -14),
            textcoords="offset points",
            ha=side if close else "center",
            va="bottom" if y > 0 else "top",
            color="white",
            fontsize=_SMALL,
            fontweight="bold",
            path_effects=stroke,
            parse_math=False,
        )
    axes.set_aspect("equal")
    origin, second = (_escaped(model["name"]) for model in models[:2])
    axes.set_xlabel(f"distance from {origin} towards {second}, in weight space", fontsize=_SMALL)
    axes.set_ylabel("distance at right angles to it", fontsize=_SMALL)
    _finish(figure, axes, f"{found['metric'].capitalize()} in the plane through three models", found, path)


def draw_curves(found: Found, path: Path) -> None:
    """Draw the scores along lines that begin at one model.

    Args:
        found: what `compressor.pipeline.landscape.interpolate` has measured.
        path: an .svg or .png file.
    """
    from matplotlib.ticker import LogFormatter

    figure = _figure(_WIDTH, 0.58 * _WIDTH)
    axes = figure.add_subplot()
    metric, curves = found["metric"], found["curves"]
    # Wong, "Points of view: Color blindness", Nature Methods 8 (2011): told apart by everybody, as the dashes are.
    styles = (("#d55e00", "s", "--"), ("#0072b2", "o", "-"))
    told = (" (before alignment)", " (after alignment)") if len(curves) > 1 else ("",)
    for curve, (colour, marker, dashes), when in zip(curves, styles, told, strict=False):
        values = [math.nan if value is None else _shown(value, metric) for value in curve["scores"]]
        label = f"{_escaped(curve['start'])} to {_escaped(curve['end'])}{when}: barrier {_barrier(curve, metric)}"
        axes.plot(
            found["shares"], values, dashes, marker=marker, color=colour, linewidth=2.5, markersize=8, label=label
        )
    if metric == "perplexity":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter())
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=_SMALL, frameon=False)
    axes.set_xlabel("share t of the second model: (1 − t)·first + t·second", fontsize=_SMALL)
    axes.set_ylabel(_unit(metric), fontsize=_SMALL)
    _finish(figure, axes, f"{metric.capitalize()} on a straight line in weight space", found, path)


def describe_landscape(found: Found) -> list[RenderableType]:
    """What there is now, for a terminal: the models' scores, what lies between them, and the files."""
    metric = found["metric"]
    plane = found["kind"] == "landscape"
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for title in (metric, "x", "y") if plane else (metric,):
        table.add_column(title, justify="right", no_wrap=True)
    for model in found["models"]:
        cells = [f"{model[axis]:.2f}" for axis in ("x", "y")] if plane else []
        table.add_row(Text(model["name"]), format_score(model["score"], metric), *cells)
    lines: list[RenderableType] = [table]
    if plane and (best := found["best"]):
        points = len(found["xs"]) * len(found["ys"])
        place = f"({best['x']:.2f}, {best['y']:.2f})"
        lines.append(f"best of {points} points and the models: {format_score(best['score'], metric)} at {place}")
    for curve in () if plane else found["curves"]:
        known = [value for value in curve["scores"] if value is not None]
        worst = format_score((max if metric == "perplexity" else min)(known, default=None), metric)
        lines.append(f"{curve['start']} to {curve['end']}: at worst {worst}, barrier {_barrier(curve, metric)}")
    return [*lines, _measured(found), f"wrote {found['picture']} and {found['numbers']}"]


def format_score(value: float | None, metric: str) -> str:
    """An accuracy or a perplexity as it is shown."""
    if value is None:
        return MISSING
    return format_perplexity(value) if metric == "perplexity" else f"{100 * value:.1f} %"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _contours(figure: Figure, axes: Axes, found: Found) -> None:
    """Contours with their bar of colours; of perplexities their logarithms', which are what changes evenly."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    metric = found["metric"]
    rows = [[math.nan if value is None else _height(value, metric) for value in row] for row in found["scores"]]
    values = np.ma.masked_invalid(rows)
    lowest, highest = (float(values.min()), float(values.max())) if values.count() else (0.0, 0.0)
    options: dict[str, Any] = {}
    if metric == "perplexity":
        known = [_height(model["score"], metric) for model in found["models"] if model["score"] is not None]
        top = max(min(highest, max(known, default=highest) + math.log(_BEYOND)), lowest + 1e-3)
        levels: Any = np.linspace(lowest, top, _LEVELS + 1)
        # Reversed: bright is good here too.
        options = {"cmap": "viridis_r", "extend": "max" if top < highest else "neither"}
    else:
        levels = MaxNLocator(_LEVELS).tick_values(lowest, highest)
    filled = axes.contourf(found["xs"], found["ys"], values, levels, **options)
    axes.contour(found["xs"], found["ys"], values, levels, colors="white", linewidths=0.6, alpha=0.6)
    bar = figure.colorbar(filled, ax=axes, pad=0.02)
    if metric == "perplexity":
        bar.set_ticks(levels[::2], labels=[f"{math.exp(level):.3g}" for level in levels[::2]])
    bar.set_label(_unit(metric), fontsize=_SMALL)
    bar.ax.tick_params(labelsize=_SMALL)


def _finish(figure: Figure, axes: Axes, title: str, found: Found, path: Path) -> None:
    axes.tick_params(which="both", labelsize=_SMALL)
    axes.set_title(title, fontsize=_LARGE, pad=2.2 * _SMALL)
    axes.annotate(
        _measured(found), (0.5, 1), (0, 0.5 * _SMALL), xycoords="axes fraction", textcoords="offset points",
        ha="center", fontsize=_SMALL, color="dimgrey", parse_math=False,
    )  # fmt: skip
    save_figure(figure, path)


def _measured(found: Found) -> str:
    unit = "tokens" if found["labelled"] > found["samples"] else "samples"
    count = found["labelled"] if unit == "tokens" else found["samples"]
    return f"measured on {found['data']}, {count} {unit}"


def _barrier(curve: Found, metric: str) -> str:
    if curve["barrier"] is None:
        return "unknown"
    return f"{curve['barrier']:.2f} nats" if metric == "perplexity" else f"{100 * curve['barrier']:.1f} points"


def _shown(value: float, metric: str) -> float:
    return value if metric == "perplexity" else 100 * value


def _height(value: float, metric: str) -> float:
    return math.log(value) if metric == "perplexity" else 100 * value


def _unit(metric: str) -> str:
    return "perplexity (log scale, lower is better)" if metric == "perplexity" else "accuracy in %"


def _escaped(name: str) -> str:
    """A name in which no dollar begins a formula."""
    return name.replace("$", r"\$")
