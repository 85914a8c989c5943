"""Choices of the fusion and their reasons, and the errors of the refit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compressor.report.describe import (
    Report,
    describe_kernels,
    describe_last_layer,
    describe_reconstruction,
    format_measure,
    measure_of,
)
from compressor.report.mixture import describe_mixture
from compressor.report.page.charts import COLOURS, Chart, Line, line_chart
from compressor.report.page.table import PageTable

#: Name, value and reason of a choice.
_Choice = tuple[str, str, str]
_REFIT = (
    "Each linear map was fitted in closed form (ridge regression) from the student’s own activations to the outputs of "
    "the teachers’ ensemble. The error is the share of the target’s energy that is missed on held-out samples."
)


def choices_view(report: Report, names: Mapping[str, str]) -> dict[str, Any]:
    """Choices and reasons; candidates as bars."""
    fusion = report["fusion"]
    choices, panels = fusion["choices"], []
    if candidates := fusion.get("candidates"):
        text = "Every candidate was built on a few calibration samples and scored on held-out samples:"
        panels.append({"text": text, **_bars(candidates, str(choices["residual"]), names)})
    if shapes := choices.get("shapes"):
        chosen = f"{choices['attention']}, {choices['residual']}"
        panels.append({"text": "So were shapes of attention, each with its maps:", **_bars(shapes, chosen, names)})
    rows = [*_map_choices(report, names), *_fit_choices(report), *_shape_choices(report, names)]
    return {"panels": panels, "rows": rows}


#: {what is preferred: why a shape was chosen}.
_PREFERRED = {
    "accuracy": "nearest to the ensemble",
    "balanced": "the fastest of those about as near to the ensemble as the nearest",
    "speed": "the fastest",
}


def refit_view(report: Report) -> dict[str, Any] | None:
    """Ridge-regression errors by module and layer."""
    if not (fits := report["fusion"].get("fits")):
        return None
    rows = [
        (fit["module"], f"{fit['error']:.2e}", f"{fit['ridge']:.1e}", "transported weight" if fit["prior"] else "zero")
        for fit in fits
    ]
    table = PageTable(("module", "error", "ridge λ", "shrinks towards"), rows)
    charts = [_error_chart(stack, series) for stack, series in _error_series(fits).items()]
    return {"text": _REFIT, "charts": [chart for chart in charts if chart], "table": table}


def _map_choices(report: Report, names: Mapping[str, str]) -> Iterator[_Choice]:
    choices = report["fusion"]["choices"]
    why = choices.get("why", "")
    yield "residual map", _with_names(str(choices["residual"]), names), f"{why[:1].upper()}{why[1:]}" or "asked for"
    yield "heads and hidden units", str(choices["inner"]), _reason(report, "inner", "follows from the residual map")
    if choices.get("attention"):
        shapes = choices.get("shapes") or []
        tried = f"{_PREFERRED[report['recipe']['fusion'].get('prefer', 'accuracy')]} of the {len(shapes)} above"
        reason = tried if shapes else _reason(report, "narrowing", "the only shape that was tried")
        yield "attention", str(choices["attention"]), reason
    mixture = report.get("mixture") or {}
    for key, name, reason in (
        ("shares", "shares in the stream", "of each teacher in the student’s residual coordinates"),
        ("weights", "weights in the ensemble", mixture.get("why") or _reason(report, "weights", "all alike")),
    ):
        if choices.get(key):
            values = ", ".join(f"{names.get(teacher, teacher)} {value:.3g}" for teacher, value in choices[key].items())
            yield name, values, reason
    if mixed := describe_mixture(report):
        yield "mixture of predictions", f"mean of {mixture['name']}", mixed


def _fit_choices(report: Report) -> Iterator[_Choice]:
    fusion = report["fusion"]
    if fusion.get("fits"):
        ridges = sorted({fit["ridge"] for fit in fusion["fits"]})
        span = f"{ridges[0]:.1e}" if len(ridges) == 1 else f"{ridges[0]:.1e} to {ridges[-1]:.1e}"
        yield "ridge λ of the refit", span, _reason(report, "ridge", "least held-out error of each module")
    if fusion.get("polished") is not None:
        reason = _reason(report, "polish", "automatic: the width drops part of the residual stream")
        yield "layer-wise reconstruction", describe_reconstruction(fusion), reason
    if head := fusion.get("head"):
        divergence = f"held-out KL {head['kl']:.4g} nats, {head['least_squares_kl']:.4g} by least squares"
        yield "head", head["module"], f"fitted last, to the ensemble’s probabilities: {divergence}"
    if last_layer := fusion.get("last_layer"):
        yield "last layer", last_layer["module"], describe_last_layer(last_layer)


def _shape_choices(report: Report, names: Mapping[str, str]) -> Iterator[_Choice]:
    if target := report.get("target"):
        sizes = ", ".join(f"{name} {size['teacher']} → {size['student']}" for name, size in target["fields"].items())
        yield "width", f"{target['given_width']:.4g}", f"{target['asked_width']:g} was asked for; {sizes}"
        if kernels := target.get("runs_fast_in"):
            yield "runs fast in", describe_kernels(kernels), "follows from the sizes of heads and matrices"
    for name, assigned in (report["fusion"].get("layers") or {}).items():
        layers = ", ".join(
            str(layer[0]) if len(layer) == 1 else f"{layer[0]}–{layer[-1]}" for layer in assigned.values() if layer
        )
        yield f"layers of {names.get(name, name)}", layers, "that correspond to each layer of the student"


def _bars(candidates: Sequence[Report], chosen: str, names: Mapping[str, str]) -> dict[str, Any]:
    measure = measure_of(candidates)
    largest = max((entry[measure] for entry in candidates if entry[measure] is not None), default=1.0) or 1.0
    unit = "KL to the ensemble, in nats" if "_kl" in measure else "error, as a share of the energy"
    if measure.endswith("_and_worst"):
        unit += " (mean of all samples’ and the worst-served part’s)"
    where = "On random inputs" if measure.startswith("random_inputs") else "Held-out"
    bars = []
    for entry in candidates:
        marked = entry["candidate"] == chosen
        share = 1.0 if entry[measure] is None else min(entry[measure] / largest, 1)
        name = _with_names(entry["candidate"], names) + (" (chosen)" if marked else "")
        text = format_measure(entry[measure])
        if entry.get("samples"):
            text += f" ({entry['samples']} samples, {entry['seconds']:.1f} s)"
        bars.append({"name": name, "text": text, "share": share, "marked": marked})
    return {"bars": bars, "caption": f"{where} {unit}; less is better."}


def _reason(report: Report, option: str, automatic: str) -> str:
    """The reason, or "asked for"."""
    return automatic if report["recipe"]["fusion"][option] == "auto" else "asked for"


def _with_names(text: str, names: Mapping[str, str]) -> str:
    """A label with the table's teacher names."""
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text


def _error_chart(stack: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> Chart | None:
    lines = [
        Line(name, points, COLOURS[index % len(COLOURS)], dots=True)
        for index, (name, points) in enumerate(series.items())
    ]
    caption = f"Refit error by layer of {stack}"
    return line_chart(lines, f"layer of {stack}", "error", caption, caption)


def _error_series(fits: Sequence[Report]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """{stack: {module: [(layer, error)]}}; joint fits once."""
    stacks: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for fit in fits:
        # Exact fits have an error of zero, or of rounding, which has no place on a logarithmic axis.
        if match := re.fullmatch(r"(.+?)\.(\d+)\.(.+)", fit["module"]):
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
    parent = names[0].rpartition(".")[0]
    if len(names) > 1 and parent and all(name.rpartition(".")[0] == parent for name in names):
        return f"{parent}: {', '.join(name.rpartition('.')[2] for name in names)}"
    return ", ".join(names)
