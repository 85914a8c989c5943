"""How the student was made: what was chosen and why, the couplings, the refit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from compressor.bench.rows import MISSING
from compressor.report.describe import describe_reconstruction, measure_of
from compressor.report.page.charts import COLOURS, Line, chart_key, line_chart
from compressor.report.page.heat_maps import spaces_in_order
from compressor.report.page.markup import Markup, el, markup_table

Report = Mapping[str, Any]

_COUPLINGS = (
    "A coupling says how much of a teacher’s coordinates goes to each of the student’s. In the pictures rows are the "
    "teacher’s coordinates and columns the student’s, sorted by where their mass comes from: a hard map is a thin "
    "diagonal, a soft one a broad band, and an empty row was left behind. Colour is the root of the mass; more than 64 "
    "coordinates are drawn in blocks."
)
_FIGURES = (
    "Entropy is in nats. The marginal error is the largest share by which a row or column misses its mass. The cost is "
    "what the plan transports at, in units of the ground cost; a map that chooses coordinates, or is made of others, "
    "has none (that of channels within heads is the heads’)."
)
_PROJECTIONS = (
    "A space marked “no transport” has a map that is no coupling (principal components, matched experts, heads of "
    "another size): what is drawn is the square of the matrix that reads the teacher’s coordinates from the student’s."
)


def choices_section(report: Report, names: Mapping[str, str]) -> list[Markup]:
    """What the run chose by itself, and on what evidence; what was asked for is named as such."""
    fusion = report["fusion"]
    made, said = fusion["choices"], []
    rows: list[tuple[str, str, str]] = [
        ("residual map", _named(str(made["residual"]), names), _sentence(made.get("why", "")) or "asked for"),
        (
            "heads and hidden units",
            str(made["inner"]),
            _asked(report, "inner", "follows from the residual map’s choice"),
        ),
    ]
    if made.get("attention"):
        rows.append(("attention", str(made["attention"]), _why_shaped(report, made.get("shapes") or [])))
    if made.get("shares"):
        shares = ", ".join(f"{names.get(name, name)} {share:.3g}" for name, share in made["shares"].items())
        rows.append(("shares in the stream", shares, "of each teacher in the student’s residual coordinates"))
    if made.get("weights"):
        weights = ", ".join(f"{names.get(name, name)} {weight:.3g}" for name, weight in made["weights"].items())
        rows.append(("weights in the ensemble", weights, _asked(report, "weights", "all alike")))
    if given := _given(fusion.get("couplings") or [], names):
        rows.append(("taken from each teacher", given, "of the student’s heads and hidden units that were chosen"))
    if fusion.get("fits"):
        ridges = sorted({fit["ridge"] for fit in fusion["fits"]})
        span = f"{ridges[0]:.1e}" if len(ridges) == 1 else f"{ridges[0]:.1e} to {ridges[-1]:.1e}"
        rows.append(("ridge λ of the refit", span, _asked(report, "ridge", "least held-out error, module by module")))
    if fusion.get("polished") is not None:
        rows.append(
            (
                "polish",
                describe_reconstruction(fusion),
                _asked(report, "polish", "the width leaves out some of the stream"),
            )
        )
    if head := fusion.get("head"):
        rows.append(
            (
                "head",
                head["module"],
                "fitted last to the ensemble’s probabilities: held-out KL "
                f"{head['kl']:.4g} nats, {head['least_squares_kl']:.4g} by least squares",
            )
        )
    if target := report.get("target"):
        rows.append(
            ("width", f"{target['given_width']:.4g}", f"{target['asked_width']:g} was asked for; {_shapes(target)}")
        )
    for name, run in (fusion.get("layers") or {}).items():
        kept = ", ".join(
            str(layer[0]) if len(layer) == 1 else f"{layer[0]}–{layer[-1]}" for layer in run.values() if layer
        )
        rows.append((f"layers of {names.get(name, name)}", kept, "that stand for each layer of the student"))
    if candidates := fusion.get("candidates"):
        said = [
            el("p", "Every candidate was built on a few calibration samples and judged on samples that were held out:"),
            _bars(candidates, str(made["residual"]), names),
        ]
    if shapes := made.get("shapes"):
        said += [
            el("p", "So were shapes of attention, each with the maps that suit it:"),
            _bars(shapes, f"{made['attention']}, {made['residual']}", names),
        ]
    return [*said, _list(rows)]


def couplings_section(report: Report, names: Mapping[str, str]) -> list[Markup]:
    """A heat map of every space."""
    fusion = report["fusion"]
    noted, others = fusion.get("couplings") or [], fusion.get("projections") or []
    if not noted and not others:
        return []
    said = [_COUPLINGS, _FIGURES, *([_PROJECTIONS] if others else [])]
    return [
        *(el("p", line, class_="note") for line in said),
        *spaces_in_order(noted, others, names),
        _coupling_table(noted, names),
    ]


def refit_section(report: Report) -> list[Markup]:
    """The error of every module's closed-form fit, layer by layer."""
    fits = report["fusion"].get("fits") or []
    if not fits:
        return []
    said = (
        "Each linear map was fitted in closed form from the student’s own activations to what the teachers’ ensemble "
        "puts out there. The error is the part of the target’s energy that is missed on held-out samples."
    )
    charts = []
    for stack, series in _series(fits).items():
        drawn = [Line(points, COLOURS[index % len(COLOURS)], dots=True) for index, points in enumerate(series.values())]
        entries = [(name, COLOURS[index % len(COLOURS)]) for index, name in enumerate(series)]
        told = f"Refit error by layer of {stack}"
        charts.append(
            el(
                "figure",
                line_chart(drawn, f"layer of {stack}", "error", told),
                chart_key(entries),
                el("figcaption", told),
            )
        )
    rows = [
        (fit["module"], f"{fit['error']:.2e}", f"{fit['ridge']:.1e}", "transported weight" if fit["prior"] else "zero")
        for fit in fits
    ]
    whole = el(
        "details",
        el("summary", f"all {len(fits)} modules"),
        markup_table(("module", "error", "ridge λ", "falls back to"), rows),
    )
    return [el("p", said), el("div", *charts, class_="charts"), whole]


def _given(couplings: Sequence[Report], names: Mapping[str, str]) -> str:
    """How many of the student's chosen heads and units come from each teacher."""
    chosen = [one for one in couplings if one["solver"] == "selection"]
    filled: dict[str, int] = {}
    for one in chosen:
        filled[one["teacher"]] = filled.get(one["teacher"], 0) + one["target"] - one["empty_targets"]
    # Of every space there is one entry a teacher.
    count = sum(one["target"] for one in chosen) // max(len(filled), 1)
    return ", ".join(f"{names.get(name, name)} {number} of {count}" for name, number in filled.items())


def _series(fits: Sequence[Report]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """{stack: {module's name in a layer: (layer, error)}}; modules that were fitted together are one series."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for fit in fits:
        match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", fit["module"])
        # An exact fit has an error of zero, or of rounding, which no logarithm shows.
        if match:
            place = (float(match[2]), max(fit["error"], 1e-12))
            found.setdefault(match[1], {}).setdefault(match[3], []).append(place)
    merged: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for stack, series in found.items():
        alike: dict[tuple[tuple[float, float], ...], list[str]] = {}
        for name, points in series.items():
            alike.setdefault(tuple(points), []).append(name)
        merged[stack] = {_together(names): list(points) for points, names in alike.items()}
    return merged


def _together(names: Sequence[str]) -> str:
    """Names of one module's parts without what they have in common."""
    if len(names) == 1:
        return names[0]
    first, _, _ = names[0].rpartition(".")
    common = all(name.rpartition(".")[0] == first for name in names)
    return f"{first}: {', '.join(name.rpartition('.')[2] for name in names)}" if common and first else ", ".join(names)


def _coupling_table(noted: Sequence[Report], names: Mapping[str, str]) -> Markup:
    rows = [
        (
            one["space"],
            names.get(one["teacher"], one["teacher"]),
            one["solver"],
            f"{one['source']} → {one['target']}",
            f"{one['entropy']:.3f}",
            f"{one['marginal_error']:.1e}",
            "–" if one["cost"] is None else f"{one['cost']:.4g}",
            f"{one['transported']:.0%}",
            one["untransported"],
            one["empty_targets"],
        )
        for one in noted
    ]
    titles = ("space", "teacher", "solver", "size", "entropy", "marginal error", "cost", "transported", "left behind",
              "not filled")  # fmt: skip
    return el("details", el("summary", f"all {len(noted)} couplings in figures"), markup_table(titles, rows))


def _why_shaped(report: Report, shapes: Sequence[Report]) -> str:
    if shapes:
        return f"nearest to the ensemble of the {len(shapes)} above"
    return _asked(report, "narrowing", "the only shape that was tried")


def _bars(candidates: Sequence[Report], chosen: str, names: Mapping[str, str]) -> Markup:
    measure = measure_of(candidates)
    most = max((one[measure] for one in candidates if one[measure] is not None), default=1.0) or 1.0
    unit = "KL to the ensemble, in nats" if measure.endswith("_kl") else "error, as a share of the energy"
    where = "On random inputs" if measure.startswith("random_inputs") else "Held-out"
    bars = [
        el(
            "div",
            el("span", _named(one["candidate"], names) + (" (chosen)" if one["candidate"] == chosen else "")),
            el("em", MISSING if one[measure] is None else f"{one[measure]:.4g}"),
            el("i", style=f"width:{100 if one[measure] is None else 100 * min(one[measure] / most, 1):.1f}%"),
            class_="marked" if one["candidate"] == chosen else None,
        )
        for one in candidates
    ]
    return el("figure", el("div", *bars, class_="bars"), el("figcaption", f"{where} {unit}; less is better."))


def _list(rows: Sequence[tuple[str, str, str]]) -> Markup:
    """What, which, and why."""
    entries = (
        part for what, value, why in rows for part in (el("dt", what), el("dd", el("b", value), el("small", why)))
    )
    return el("dl", *entries, class_="chosen")


def _asked(report: Report, option: str, otherwise: str) -> str:
    return otherwise if report["recipe"]["fusion"][option] == "auto" else "asked for"


def _shapes(target: Report) -> str:
    return ", ".join(f"{name} {sizes['teacher']} → {sizes['student']}" for name, sizes in target["fields"].items())


def _named(text: str, names: Mapping[str, str]) -> str:
    """A label with teachers called as in the table."""
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" if text else ""
