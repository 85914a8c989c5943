"""Choices of the fusion, with candidates as bars, and the errors of the refit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

from compressor.report.choices import with_names
from compressor.report.describe import Report, format_measure, measure_of
from compressor.report.page.charts import COLOURS, Chart, Series, make_chart


def refit_rows(fits: Sequence[Report]) -> list[tuple[str, ...]]:
    """Module, error, ridge, and what the fit shrinks towards."""
    return [
        (fit["module"], f"{fit['error']:.2e}", f"{fit['ridge']:.1e}", "transported weight" if fit["prior"] else "zero")
        for fit in fits
    ]


def candidate_bars(candidates: Sequence[Report], chosen: str, names: Mapping[str, str]) -> Report:
    """Rows of bars and a caption."""
    measure = measure_of(candidates)
    largest = max((entry[measure] for entry in candidates if entry[measure] is not None), default=1.0) or 1.0
    caption = "On random inputs" if measure.startswith("random_inputs") else "Held-out"
    caption += " KL to the ensemble, in nats" if "_kl" in measure else " error, as a share of the energy"
    if measure.endswith("_and_worst"):
        caption += " (mean of all samples’ and the worst-served part’s)"
    rows = []
    for entry in candidates:
        marked, value = entry["candidate"] == chosen, entry[measure]
        figure = format_measure(value)
        if entry.get("samples"):
            figure += f" ({entry['samples']} samples, {entry['seconds']:.1f} s)"
        name = with_names(entry["candidate"], names) + (" (chosen)" if marked else "")
        rows.append((name, figure, 1.0 if value is None else min(value / largest, 1), marked))
    return {"rows": rows, "caption": caption}


def shape_chart(shapes: Sequence[Report], chosen: str) -> Chart | None:
    """Shapes, each with its best maps, by their time and error; nothing for one shape, or times that are not known."""
    measure, best = measure_of(shapes), dict[str, Report]()
    for entry in shapes:
        heads = entry["candidate"].split(",")[0]
        if entry.get("relative_time") is None or entry[measure] is None:
            return None
        if heads not in best or entry[measure] < best[heads][measure]:
            best[heads] = entry
    points = [
        Series(heads, "--accent" if heads == chosen else "--calm", [(entry["relative_time"], entry[measure])])
        for heads, entry in best.items()
    ]
    title = "KL to the ensemble, in nats" if "_kl" in measure else "error"
    times = "time by its sizes, of the fastest shape’s"
    return make_chart(points, times, title, of_costs=True) if len(points) > 1 else None


def refit_charts(fits: Sequence[Report]) -> Iterator[tuple[str, Chart | None]]:
    """Stacks, and the errors of their modules by layer; joint fits once."""
    stacks: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for fit in fits:
        if match := re.fullmatch(r"(.+?)\.(\d+)\.(.+)", fit["module"]):
            # Exact fits have an error of zero, or of rounding, which has no place on a logarithmic axis.
            point = (float(match[2]), max(fit["error"], 1e-12))
            stacks.setdefault(match[1], {}).setdefault(match[3], []).append(point)
    for stack, modules in stacks.items():
        alike: dict[tuple[tuple[float, float], ...], list[str]] = {}
        for module, points in modules.items():
            alike.setdefault(tuple(points), []).append(module)
        colours = zip(alike.items(), cycle(COLOURS), strict=False)
        lines = [Series(", ".join(names), colour, points, dots=True) for (points, names), colour in colours]
        yield stack, make_chart(lines, f"layer of {stack}", "error")
