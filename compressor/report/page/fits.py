"""Choices of the fusion, with candidates as bars, and the errors of the refit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from compressor.report.choices import choices_of, with_names
from compressor.report.describe import Report, format_measure, measure_of
from compressor.report.page.charts import COLOURS, Chart, ChartPoint, Line, line_chart, scatter_chart
from compressor.report.page.elements import Bars, Element, Facts, Group, PageTable

_REFIT = (
    "Each linear map was fitted in closed form (ridge regression) from the student’s own activations to the outputs of "
    "the teachers’ ensemble. The error is the share of the target’s energy that is missed on held-out samples."
)

#: (layer, error).
_Points = list[tuple[float, float]]


def choices_section(report: Report, names: Mapping[str, str]) -> list[Element]:
    """Choices and reasons; candidates as bars."""
    fusion, choices = report["fusion"], report["fusion"]["choices"]
    panels: list[Bars | Chart] = []
    if candidates := fusion.get("candidates"):
        text = "Every candidate was built on a few calibration samples and scored on held-out samples:"
        panels.append(_bars(text, candidates, str(choices["residual"]), names))
    if shapes := choices.get("shapes"):
        chosen = f"{choices['attention']}, {choices['residual']}"
        panels.append(_bars("So were shapes of attention, each with its maps:", shapes, chosen, names))
        panels += _frontier(shapes, str(choices["attention"]))
    facts = Facts([(choice.name, choice.value, choice.reason) for choice in choices_of(report)])
    return [*([Group("columns", panels)] if panels else []), facts]


def refit_section(report: Report) -> list[Element]:
    """Ridge-regression errors by module and layer."""
    if not (fits := report["fusion"].get("fits")):
        return []
    rows = [
        (fit["module"], f"{fit['error']:.2e}", f"{fit['ridge']:.1e}", "transported weight" if fit["prior"] else "zero")
        for fit in fits
    ]
    charts = []
    for stack, series in _error_series(fits):
        lines = [Line(name, points, COLOURS[i % len(COLOURS)], dots=True) for i, (name, points) in enumerate(series)]
        caption = f"Refit error by layer of {stack}"
        charts += line_chart(lines, f"layer of {stack}", "error", caption, caption)
    table = PageTable(("module", "error", "ridge λ", "shrinks towards"), rows)
    return [Group("columns", [*charts, [_REFIT]]), Group("details", [table], f"all {len(rows)} modules")]


def _bars(text: str, candidates: Sequence[Report], chosen: str, names: Mapping[str, str]) -> Bars:
    measure = measure_of(candidates)
    largest = max((entry[measure] for entry in candidates if entry[measure] is not None), default=1.0) or 1.0
    unit = "KL to the ensemble, in nats" if "_kl" in measure else "error, as a share of the energy"
    if measure.endswith("_and_worst"):
        unit += " (mean of all samples’ and the worst-served part’s)"
    where = "On random inputs" if measure.startswith("random_inputs") else "Held-out"
    rows = []
    for entry in candidates:
        marked, value = entry["candidate"] == chosen, entry[measure]
        figure = format_measure(value)
        if entry.get("samples"):
            figure += f" ({entry['samples']} samples, {entry['seconds']:.1f} s)"
        name = with_names(entry["candidate"], names) + (" (chosen)" if marked else "")
        rows.append((name, figure, 1.0 if value is None else min(value / largest, 1), marked))
    return Bars(rows, text, f"{where} {unit}; less is better.")


def _frontier(shapes: Sequence[Report], chosen: str) -> list[Chart]:
    """Shapes, each with its best maps, by their time and error; nothing for one shape, or times that are not known."""
    measure, best = measure_of(shapes), dict[str, ChartPoint]()
    for entry in shapes:
        heads, error = entry["candidate"].split(",")[0], entry[measure]
        if entry.get("relative_time") is None or error is None:
            return []
        if heads not in best or error < best[heads].y:
            colour = "--accent" if heads == chosen else "--calm"
            best[heads] = ChartPoint(heads, entry["relative_time"], error, colour=colour)
    title = "KL to the ensemble, in nats" if "_kl" in measure else "error"
    times = "time by its sizes, of the fastest shape’s"
    return scatter_chart(list(best.values()), times, title, percent=False) if len(best) > 1 else []


def _error_series(fits: Sequence[Report]) -> Iterator[tuple[str, list[tuple[str, _Points]]]]:
    """Errors of each stack's modules by layer; joint fits once."""
    stacks: dict[str, dict[str, _Points]] = {}
    for fit in fits:
        # Exact fits have an error of zero, or of rounding, which has no place on a logarithmic axis.
        if match := re.fullmatch(r"(.+?)\.(\d+)\.(.+)", fit["module"]):
            point = (float(match[2]), max(fit["error"], 1e-12))
            stacks.setdefault(match[1], {}).setdefault(match[3], []).append(point)
    for stack, series in stacks.items():
        alike: dict[tuple[tuple[float, float], ...], list[str]] = {}
        for name, points in series.items():
            alike.setdefault(tuple(points), []).append(name)
        yield stack, [(", ".join(names), list(points)) for points, names in alike.items()]
