"""How the student was made: shapes that were tried, errors of the refit, couplings and their pictures."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle

from PIL import Image

from compressor.report.describe import Report, measure_of
from compressor.report.page.charts import COLOURS, Chart, Series, make_chart
from compressor.transport.sketch import FULL, levels

#: Colour of mass, visible on light and dark pages; cells without mass are transparent.
_INK = (47, 116, 220)
#: {stack: {layer: {part: bars of its teachers as (name, share, coordinates taken)}}}.
Stacks = dict[str, dict[int | str, dict[str, list[tuple[str, float, int]]]]]


def source_stacks(maps: Sequence[Report], choices: Report) -> tuple[Stacks, Counter[str]]:
    """Where the spaces of each stack's layers come from, and {teacher: coordinates taken}.

    Spaces outside layers are in the stack "", as layers with one part.
    """
    known = choices.get("shares") or choices.get("weights") or {}
    spaces: dict[str, list[Report]] = {}
    for entry in maps:
        # The roles of a space, such as queries and values, are one.
        spaces.setdefault(entry["space"].partition("/")[0], []).append(entry)
    stacks, taken = Stacks(), Counter[str]()
    for space, entries in spaces.items():
        counts = Counter[str]()
        if all(entry.get("solver") == "selection" for entry in entries):
            for entry in entries:
                counts[entry["teacher"]] += entry["target"] - entry["empty_targets"]
        # A mean has a share of every teacher, although an anchor has no coupling to itself.
        weights = counts or known or {entry["teacher"]: 1.0 for entry in entries}
        total = sum(weights.values()) or 1.0
        match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", space)
        stack, layer, part = (match[1], int(match[2]), match[3]) if match else ("", space, "")
        bars = [(teacher, weight / total, counts[teacher]) for teacher, weight in weights.items() if weight]
        stacks.setdefault(stack, {}).setdefault(layer, {})[part] = bars
        taken += counts
    return stacks, taken


def alike_spaces(maps: Sequence[Report]) -> list[list[list[Report]]]:
    """Groups of spaces with the same maps, each space as its maps."""
    spaces: dict[tuple[str, bool], list[Report]] = {}
    for entry in maps:
        spaces.setdefault((entry["space"], "solver" in entry), []).append(entry)
    alike: dict[str, list[list[Report]]] = {}
    for entries in spaces.values():
        # Selections of all units differ in nothing but their space.
        content = [{key: value for key, value in entry.items() if key != "space"} for entry in entries]
        alike.setdefault(json.dumps(content, sort_keys=True), []).append(entries)
    return list(alike.values())


def heat_map(sketched: Report) -> str:
    """A `compressor.transport.sketch` as a PNG data URL; opacity: √mass."""
    opacity = [round(FULL * (level / FULL) ** 0.5) for level in range(FULL + 1)]
    size = (sketched["columns"], sketched["rows"])
    image = Image.new("RGB", size, _INK)
    image.putalpha(Image.frombytes("L", size, levels(sketched)).point(opacity))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shape_chart(shapes: Sequence[Report], chosen: str) -> Chart | None:
    """Shapes, each with its best maps, by their time and error; nothing for one shape, or times that are not known."""
    measure, best = measure_of(shapes), dict[str, Report]()
    if any(entry.get("relative_time") is None or entry[measure] is None for entry in shapes):
        return None
    for entry in sorted(shapes, key=lambda entry: entry[measure]):
        best.setdefault(entry["candidate"].split(",")[0], entry)
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
