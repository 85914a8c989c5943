"""Figures of scores in weight space; without pyplot, which changes global state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from compressor.bench.metrics import METRICS
from compressor.errors import UserError
from compressor.report.describe import Report
from compressor.report.tables import plain_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Suffixes of the files that can be written.
SUFFIXES = (".svg", ".png")
#: Dots per inch, as browsers show an SVG: at most 1280 dots wide.
_DPI = 96
_WIDTH = 1280 / _DPI
#: Inches around a map for the colour bar and labels.
_MARGINS = (2.8, 1.8)
#: Font sizes in points.
_SMALL, _LARGE = 13, 17
#: Number of colours.
_LEVELS = 14
#: Perplexities beyond this many times the worst model's share one colour.
_CLIP = 10.0
#: Markers of the three models.
_MARKERS = ("s", "o", "^")


def check_plots() -> None:
    """Raise a `UserError` if matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'compressor[plots]'") from None


def draw_plane(survey: Report, path: Path) -> None:
    """Draw contours of a plane's scores."""
    from matplotlib.patheffects import withStroke

    xs, ys = survey["xs"], survey["ys"]
    # In true proportion, as large as fits, and large enough for the labels.
    ratio = (ys[-1] - ys[0]) / (xs[-1] - xs[0])
    width = min(_WIDTH - _MARGINS[0], (_WIDTH - _MARGINS[1]) / ratio)
    figure = _figure(max(width + _MARGINS[0], 0.7 * _WIDTH), max(width * ratio + _MARGINS[1], 0.3 * _WIDTH))
    axes = figure.add_subplot()
    axes.set_facecolor("lightgrey")
    _contours(figure, axes, survey)
    across, up = zip(*((x, y) for y in ys for x in xs), strict=True)
    axes.plot(across, up, ".", color="black", alpha=0.25, markersize=3)
    stroke = [withStroke(linewidth=4, foreground="black")]
    models = survey["models"]
    close = models[1]["x"] - models[0]["x"] < 0.2 * (xs[-1] - xs[0])
    # The first two are at the bottom, side by side; the third is above them.
    for model, marker, side in zip(models, _MARKERS, ("right", "left", "center"), strict=True):
        x, y = model["x"], model["y"]
        axes.plot(x, y, marker, color="white", markeredgecolor="black", markersize=13, markeredgewidth=2, zorder=3)
        axes.annotate(
            f"{model['name']}\n{format_score(model['score'], survey['metric'])}",
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
    _finish(figure, axes, f"{survey['metric'].capitalize()} in the plane through three models", survey, path)


def draw_curves(survey: Report, path: Path) -> None:
    """Draw scores along lines from one model."""
    from matplotlib.ticker import LogFormatter

    figure = _figure(_WIDTH, 0.58 * _WIDTH)
    axes = figure.add_subplot()
    metric, curves = survey["metric"], survey["curves"]
    # Colours for colour-blind readers: Wong, "Points of view: Color blindness", Nature Methods 8 (2011).
    styles = (("#d55e00", "s", "--"), ("#0072b2", "o", "-"))
    stages = (" (before alignment)", " (after alignment)") if len(curves) > 1 else ("",)
    for curve, (colour, marker, dashes), stage in zip(curves, styles, stages, strict=False):
        values = [math.nan if value is None else _scaled(value, metric) for value in curve["scores"]]
        label = f"{_escaped(curve['start'])} to {_escaped(curve['end'])}{stage}: barrier {_barrier(curve, metric)}"
        axes.plot(
            survey["shares"], values, dashes, marker=marker, color=colour, linewidth=2.5, markersize=8, label=label
        )
    if METRICS[metric].log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter())
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=_SMALL, frameon=False)
    axes.set_xlabel("share t of the second model: (1 − t)·first + t·second", fontsize=_SMALL)
    axes.set_ylabel(_unit(metric), fontsize=_SMALL)
    _finish(figure, axes, f"{metric.capitalize()} on a straight line in weight space", survey, path)


def describe_landscape(survey: Report) -> list[RenderableType]:
    """Scores and files, for a terminal."""
    metric = survey["metric"]
    plane = survey["kind"] == "landscape"
    titles = (metric, "x", "y") if plane else (metric,)
    table = plain_table("model", *titles, numbers=len(titles))
    for model in survey["models"]:
        cells = [f"{model[axis]:.2f}" for axis in ("x", "y")] if plane else []
        table.add_row(Text(model["name"]), format_score(model["score"], metric), *cells)
    lines: list[RenderableType] = [table]
    if plane and (best := survey["best"]):
        points = len(survey["xs"]) * len(survey["ys"])
        position = f"({best['x']:.2f}, {best['y']:.2f})"
        lines.append(f"best of {points} points and the models: {format_score(best['score'], metric)} at {position}")
    for curve in () if plane else survey["curves"]:
        known = [value for value in curve["scores"] if value is not None]
        worst = format_score(METRICS[metric].worst(known, default=None), metric)
        lines.append(f"{curve['start']} to {curve['end']}: at worst {worst}, barrier {_barrier(curve, metric)}")
    return [*lines, _measured(survey), f"wrote {survey['picture']} and {survey['numbers']}"]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, with reproducible bytes."""
    from matplotlib import rc_context

    suffix = path.suffix.lower()
    # A fixed salt for the ids, and no date.
    with rc_context({"svg.hashsalt": "compressor"}):
        figure.savefig(path, format=suffix[1:], metadata={"Date": None} if suffix == ".svg" else None)


def format_score(value: float | None, metric: str) -> str:
    """A score as text."""
    return METRICS[metric].format(value)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _contours(figure: Figure, axes: Axes, survey: Report) -> None:
    """Contours with a colour bar."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    metric = survey["metric"]
    rows = [[math.nan if value is None else _height(value, metric) for value in row] for row in survey["scores"]]
    values = np.ma.masked_invalid(rows)
    lowest, highest = (float(values.min()), float(values.max())) if values.count() else (0.0, 0.0)
    options: dict[str, Any] = {}
    if METRICS[metric].log:
        known = [_height(model["score"], metric) for model in survey["models"] if model["score"] is not None]
        top = max(min(highest, max(known, default=highest) + math.log(_CLIP)), lowest + 1e-3)
        levels: Any = np.linspace(lowest, top, _LEVELS + 1)
        options = {"extend": "max" if top < highest else "neither"}
    else:
        levels = MaxNLocator(_LEVELS).tick_values(lowest, highest)
    if METRICS[metric].lower:
        # So that bright is good here too.
        options["cmap"] = "viridis_r"
    filled = axes.contourf(survey["xs"], survey["ys"], values, levels, **options)
    axes.contour(survey["xs"], survey["ys"], values, levels, colors="white", linewidths=0.6, alpha=0.6)
    bar = figure.colorbar(filled, ax=axes, pad=0.02)
    if METRICS[metric].log:
        bar.set_ticks(levels[::2], labels=[f"{math.exp(level):.3g}" for level in levels[::2]])
    bar.set_label(_unit(metric), fontsize=_SMALL)
    bar.ax.tick_params(labelsize=_SMALL)


def _finish(figure: Figure, axes: Axes, title: str, survey: Report, path: Path) -> None:
    axes.tick_params(which="both", labelsize=_SMALL)
    axes.set_title(title, fontsize=_LARGE, pad=2.2 * _SMALL)
    axes.annotate(
        _measured(survey), (0.5, 1), (0, 0.5 * _SMALL), xycoords="axes fraction", textcoords="offset points",
        ha="center", fontsize=_SMALL, color="dimgrey", parse_math=False,
    )  # fmt: skip
    save_figure(figure, path)


def _measured(survey: Report) -> str:
    unit = "tokens" if survey["labelled"] > survey["samples"] else "samples"
    count = survey["labelled"] if unit == "tokens" else survey["samples"]
    return f"measured on {survey['data']}, {count} {unit}"


def _barrier(curve: Report, metric: str) -> str:
    if curve["barrier"] is None:
        return "unknown"
    kind = METRICS[metric]
    if kind.percent:
        return f"{100 * curve['barrier']:.1f} points"
    return f"{curve['barrier']:.2f} nats" if kind.log else f"{curve['barrier']:.3f}"


def _scaled(value: float, metric: str) -> float:
    return 100 * value if METRICS[metric].percent else value


def _height(value: float, metric: str) -> float:
    if METRICS[metric].log:
        return math.log(value)
    return 100 * value if METRICS[metric].percent else value


def _unit(metric: str) -> str:
    kind = METRICS[metric]
    if kind.log:
        return f"{kind.title} (log scale, lower is better)"
    return f"{kind.title} in %" if kind.percent else kind.label


def _escaped(name: str) -> str:
    """A name whose dollar signs start no formula."""
    return name.replace("$", r"\$")
