"""Sections on choices, couplings, refit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from compressor.report.describe import Report, describe_reconstruction, format_measure, measure_of
from compressor.report.page.charts import COLOURS, Line, chart_key, line_chart
from compressor.report.page.heat_maps import spaces_in_order
from compressor.report.page.markup import Markup, el, markup_table

_COUPLINGS = (
    "A coupling gives how much of each teacher coordinate goes to each student coordinate. In the pictures rows are "
    "the teacher’s coordinates and columns the student’s, sorted by where their mass comes from: a hard map is a thin "
    "diagonal, a soft one a broad band, and an empty row was dropped. Colour is the square root of the mass; more than "
    "64 coordinates are drawn in blocks."
)
_FIGURES = (
    "Entropy is in nats. The marginal error is the largest share by which a row or column misses its mass. The cost is "
    "the transport cost of the plan, in units of the ground cost; maps that select coordinates, or are made of other "
    "maps, have none (channels within heads share the cost of the heads)."
)
_PROJECTIONS = (
    "A space marked “no transport” has a map that is not a coupling (principal components, matched experts, heads of "
    "another size): its picture is the square of the matrix from the student’s coordinates to the teacher’s."
)

#: Name, value and reason of a choice.
_Choice = tuple[str, str, str]


def choices_section(report: Report, names: Mapping[str, str]) -> list[Markup]:
    """Choices and reasons."""
    fusion = report["fusion"]
    choices, parts = fusion["choices"], []
    if candidates := fusion.get("candidates"):
        parts += [
            el("p", "Every candidate was built on a few calibration samples and scored on held-out samples:"),
            _bars(candidates, str(choices["residual"]), names),
        ]
    if shapes := choices.get("shapes"):
        parts += [
            el("p", "So were shapes of attention, each with its maps:"),
            _bars(shapes, f"{choices['attention']}, {choices['residual']}", names),
        ]
    rows = [*_map_choices(report, names), *_fit_choices(report), *_shape_choices(report, names)]
    return [*parts, _definition_list(rows)]


def _map_choices(report: Report, names: Mapping[str, str]) -> list[_Choice]:
    fusion = report["fusion"]
    choices = fusion["choices"]
    why = choices.get("why", "")
    rows = [
        ("residual map", _with_names(str(choices["residual"]), names), f"{why[:1].upper()}{why[1:]}" or "asked for"),
        ("heads and hidden units", str(choices["inner"]), _reason(report, "inner", "follows from the residual map")),
    ]
    if choices.get("attention"):
        rows.append(("attention", str(choices["attention"]), _shape_reason(report, choices.get("shapes") or [])))
    for key, name, reason in (
        ("shares", "shares in the stream", "of each teacher in the student’s residual coordinates"),
        ("weights", "weights in the ensemble", _reason(report, "weights", "all alike")),
    ):
        if choices.get(key):
            values = ", ".join(f"{names.get(teacher, teacher)} {value:.3g}" for teacher, value in choices[key].items())
            rows.append((name, values, reason))
    if counts := _selected_counts(fusion.get("couplings") or [], names):
        rows.append(("taken from each teacher", counts, "of the student’s heads and hidden units that were selected"))
    return rows


def _fit_choices(report: Report) -> list[_Choice]:
    fusion = report["fusion"]
    rows = []
    if fusion.get("fits"):
        ridges = sorted({fit["ridge"] for fit in fusion["fits"]})
        span = f"{ridges[0]:.1e}" if len(ridges) == 1 else f"{ridges[0]:.1e} to {ridges[-1]:.1e}"
        rows.append(("ridge λ of the refit", span, _reason(report, "ridge", "least held-out error of each module")))
    if fusion.get("polished") is not None:
        reason = _reason(report, "polish", "automatic: the width drops part of the residual stream")
        rows.append(("layer-wise reconstruction", describe_reconstruction(fusion), reason))
    if head := fusion.get("head"):
        divergence = f"held-out KL {head['kl']:.4g} nats, {head['least_squares_kl']:.4g} by least squares"
        rows.append(("head", head["module"], f"fitted last, to the ensemble’s probabilities: {divergence}"))
    return rows


def _shape_choices(report: Report, names: Mapping[str, str]) -> list[_Choice]:
    rows = []
    if target := report.get("target"):
        sizes = ", ".join(f"{name} {size['teacher']} → {size['student']}" for name, size in target["fields"].items())
        rows.append(("width", f"{target['given_width']:.4g}", f"{target['asked_width']:g} was asked for; {sizes}"))
    for name, assigned in (report["fusion"].get("layers") or {}).items():
        layers = ", ".join(
            str(layer[0]) if len(layer) == 1 else f"{layer[0]}–{layer[-1]}" for layer in assigned.values() if layer
        )
        rows.append((f"layers of {names.get(name, name)}", layers, "that correspond to each layer of the student"))
    return rows


def couplings_section(report: Report, names: Mapping[str, str]) -> list[Markup]:
    """Heat maps of all spaces, and a table."""
    fusion = report["fusion"]
    couplings, projections = fusion.get("couplings") or [], fusion.get("projections") or []
    if not couplings and not projections:
        return []
    notes = [_COUPLINGS, _FIGURES, *([_PROJECTIONS] if projections else [])]
    return [
        *(el("p", note, class_="note") for note in notes),
        *spaces_in_order(couplings, projections, names),
        _coupling_table(couplings, names),
    ]


def refit_section(report: Report) -> list[Markup]:
    """Ridge-regression errors by module and layer."""
    fits = report["fusion"].get("fits") or []
    if not fits:
        return []
    text = (
        "Each linear map was fitted in closed form (ridge regression) from the student’s own activations to the "
        "outputs of the teachers’ ensemble. The error is the share of the target’s energy that is "
        "missed on held-out samples."
    )
    charts = []
    for stack, series in _error_series(fits).items():
        colours = [COLOURS[index % len(COLOURS)] for index in range(len(series))]
        lines = [Line(points, colour, dots=True) for points, colour in zip(series.values(), colours, strict=True)]
        caption = f"Refit error by layer of {stack}"
        chart = line_chart(lines, f"layer of {stack}", "error", caption)
        legend = chart_key(list(zip(series, colours, strict=True)))
        charts.append(el("figure", chart, legend, el("figcaption", caption)))
    rows = [
        (fit["module"], f"{fit['error']:.2e}", f"{fit['ridge']:.1e}", "transported weight" if fit["prior"] else "zero")
        for fit in fits
    ]
    table = markup_table(("module", "error", "ridge λ", "shrinks towards"), rows)
    details = el("details", el("summary", f"all {len(fits)} modules"), table)
    return [el("p", text), el("div", *charts, class_="charts"), details]


def _selected_counts(couplings: Sequence[Report], names: Mapping[str, str]) -> str:
    """Heads and units selected per teacher."""
    selections = [coupling for coupling in couplings if coupling["solver"] == "selection"]
    filled: dict[str, int] = {}
    for selection in selections:
        count = selection["target"] - selection["empty_targets"]
        filled[selection["teacher"]] = filled.get(selection["teacher"], 0) + count
    # Every space has one entry per teacher.
    total = sum(selection["target"] for selection in selections) // max(len(filled), 1)
    return ", ".join(f"{names.get(name, name)} {count} of {total}" for name, count in filled.items())


def _error_series(fits: Sequence[Report]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """{stack: {module: [(layer, error)]}}; joint fits once."""
    stacks: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for fit in fits:
        match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", fit["module"])
        # Exact fits have an error of zero, or of rounding, which has no place on a logarithmic axis.
        if match:
            point = (float(match[2]), max(fit["error"], 1e-12))
            stacks.setdefault(match[1], {}).setdefault(match[3], []).append(point)
    merged: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for stack, series in stacks.items():
        names_of: dict[tuple[tuple[float, float], ...], list[str]] = {}
        for name, points in series.items():
            names_of.setdefault(tuple(points), []).append(name)
        merged[stack] = {_joint_name(names): list(points) for points, names in names_of.items()}
    return merged


def _joint_name(names: Sequence[str]) -> str:
    """A joint name, such as "attention: query, key"."""
    if len(names) == 1:
        return names[0]
    parent, _, _ = names[0].rpartition(".")
    shared = all(name.rpartition(".")[0] == parent for name in names)
    return (
        f"{parent}: {', '.join(name.rpartition('.')[2] for name in names)}" if shared and parent else ", ".join(names)
    )


def _coupling_table(couplings: Sequence[Report], names: Mapping[str, str]) -> Markup:
    rows = [
        (
            coupling["space"],
            names.get(coupling["teacher"], coupling["teacher"]),
            coupling["solver"],
            f"{coupling['source']} → {coupling['target']}",
            f"{coupling['entropy']:.3f}",
            f"{coupling['marginal_error']:.1e}",
            "–" if coupling["cost"] is None else f"{coupling['cost']:.4g}",
            f"{coupling['transported']:.0%}",
            coupling["untransported"],
            coupling["empty_targets"],
        )
        for coupling in couplings
    ]
    titles = ("space", "teacher", "solver", "size", "entropy", "marginal error", "cost", "transported", "dropped",
              "unfilled")  # fmt: skip
    return el("details", el("summary", f"all {len(couplings)} couplings in figures"), markup_table(titles, rows))


def _bars(candidates: Sequence[Report], chosen: str, names: Mapping[str, str]) -> Markup:
    measure = measure_of(candidates)
    largest = max((entry[measure] for entry in candidates if entry[measure] is not None), default=1.0) or 1.0
    unit = "KL to the ensemble, in nats" if measure.endswith("_kl") else "error, as a share of the energy"
    where = "On random inputs" if measure.startswith("random_inputs") else "Held-out"
    bars = [
        el(
            "div",
            el("span", _with_names(entry["candidate"], names) + (" (chosen)" if entry["candidate"] == chosen else "")),
            el("em", format_measure(entry[measure])),
            el("i", style=f"width:{100 if entry[measure] is None else 100 * min(entry[measure] / largest, 1):.1f}%"),
            class_="marked" if entry["candidate"] == chosen else None,
        )
        for entry in candidates
    ]
    return el("figure", el("div", *bars, class_="bars"), el("figcaption", f"{where} {unit}; less is better."))


def _definition_list(rows: Sequence[_Choice]) -> Markup:
    entries = (
        part for name, value, reason in rows for part in (el("dt", name), el("dd", el("b", value), el("small", reason)))
    )
    return el("dl", *entries, class_="chosen")


def _shape_reason(report: Report, shapes: Sequence[Report]) -> str:
    if shapes:
        return f"nearest to the ensemble of the {len(shapes)} above"
    return _reason(report, "narrowing", "the only shape that was tried")


def _reason(report: Report, option: str, automatic: str) -> str:
    """The reason, or "asked for"."""
    return automatic if report["recipe"]["fusion"][option] == "auto" else "asked for"


def _with_names(text: str, names: Mapping[str, str]) -> str:
    """A label with the table's teacher names."""
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text
