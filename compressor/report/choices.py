"""What a run chose, and why: one list for page, card and terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.report.describe import (
    Report,
    describe_head,
    describe_kernels,
    describe_last_layer,
    describe_reconstruction,
    describe_shapes,
)
from compressor.report.mixture import describe_mixture

#: {what is preferred: why a shape was chosen}.
_PREFERRED = {
    "accuracy": "nearest to the ensemble",
    "balanced": "the fastest of those about as near to the ensemble as the nearest",
    "speed": "the fastest",
}
#: Choices that have words of their own below.
_NAMED = {"residual", "why", "inner", "attention", "shapes", "shares", "weights", "refit"}


@dataclass(frozen=True)
class Choice:
    """A choice, its value, and why or how it was made."""

    name: str
    value: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.value}" + (f" ({self.reason})" if self.reason else "")


def choices_of(report: Report) -> list[Choice]:
    """All choices of a run, as far as its report has them."""
    names = teacher_names(report)
    return [*_map_choices(report, names), *_fit_choices(report), *_shape_choices(report, names)]


def tried_shapes(report: Report) -> list[Choice]:
    """The shapes of attention that were tried, where no bars show them."""
    shapes = ((report.get("fusion") or {}).get("choices") or {}).get("shapes")
    return [Choice("shapes tried", with_names(describe_shapes(shapes), teacher_names(report)))] if shapes else []


def teacher_names(report: Report) -> dict[str, str]:
    """{teacher: its name in the table}; of reports without a table the last part of a path."""
    recipe, rows = report.get("recipe") or {}, report.get("table") or []
    teachers = recipe.get("teachers") or ()
    return {name: rows[i]["name"] if i < len(rows) else Path(name).name for i, name in enumerate(teachers)}


def with_names(text: str, names: Mapping[str, str]) -> str:
    """A label with the table's teacher names."""
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text


def _map_choices(report: Report, names: Mapping[str, str]) -> Iterator[Choice]:
    choices: Mapping[str, Any] = (report.get("fusion") or {}).get("choices") or {}
    if "residual" in choices:
        yield Choice("residual map", with_names(str(choices["residual"]), names), choices.get("why") or "asked for")
    if "inner" in choices:
        reason = _reason(report, "inner", "follows from the residual map")
        yield Choice("heads and hidden units", str(choices["inner"]), reason)
    if choices.get("attention"):
        shapes: Sequence[Report] = choices.get("shapes") or []
        preferred = _PREFERRED[_option(report, "prefer") or "accuracy"]
        tried = f"{preferred} of the {len(shapes)} tried"
        reason = tried if shapes else _reason(report, "narrowing", "the only shape that was tried")
        yield Choice("attention", str(choices["attention"]), reason)
    for key, name, reason in (
        ("shares", "shares in the stream", "of each teacher in the student’s residual coordinates"),
        ("weights", "weights in the ensemble", _why_weights(report)),
    ):
        if choices.get(key):
            shares = [f"{names.get(teacher, teacher)} {value:.3g}" for teacher, value in choices[key].items()]
            yield Choice(name, ", ".join(shares), reason)
    if mixed := describe_mixture(report):
        yield Choice("ensemble", mixed)
    yield from (Choice(key, format_value(value)) for key, value in choices.items() if key not in _NAMED)


def _fit_choices(report: Report) -> Iterator[Choice]:
    fusion = report.get("fusion") or {}
    if fusion.get("fits"):
        ridges = sorted({fit["ridge"] for fit in fusion["fits"]})
        span = f"{ridges[0]:.1e}" if len(ridges) == 1 else f"{ridges[0]:.1e} to {ridges[-1]:.1e}"
        yield Choice("refit", f"ridge λ {span}", _reason(report, "ridge", "least held-out error of each module"))
    elif "refit" in (fusion.get("choices") or {}):
        yield Choice("refit", format_value(fusion["choices"]["refit"]))
    if fusion.get("polished") is not None:
        reason = _reason(report, "polish", "automatic: the width drops part of the residual stream")
        yield Choice("layer-wise reconstruction", describe_reconstruction(fusion), reason)
    if head := fusion.get("head"):
        yield Choice("head", describe_head(head))
    if last_layer := fusion.get("last_layer"):
        yield Choice("last layer", describe_last_layer(last_layer))


def _shape_choices(report: Report, names: Mapping[str, str]) -> Iterator[Choice]:
    if target := report.get("target"):
        sizes = ", ".join(f"{name} {size['teacher']} → {size['student']}" for name, size in target["fields"].items())
        depth = "" if target.get("asked_depth") is None else f" and depth {target['asked_depth']:g}"
        asked = f"{target['asked_width']:g}{depth} asked for; {sizes}"
        yield Choice("width", f"{target['given_width']:.4g}", asked)
        if kernels := target.get("runs_fast_in"):
            yield Choice("runs fast in", describe_kernels(kernels), "follows from the sizes of heads and matrices")
    for name, assigned in ((report.get("fusion") or {}).get("layers") or {}).items():
        layers = [
            f"{layer[0]}–{layer[-1]}" if len(layer) > 1 else str(layer[0]) for layer in assigned.values() if layer
        ]
        reason = "that correspond to each layer of the student"
        yield Choice(f"layers of {names.get(name, name)}", ", ".join(layers), reason)


def _why_weights(report: Report) -> str:
    why: str | None = (report.get("mixture") or {}).get("why")
    return why or _reason(report, "weights", "all alike")


def _option(report: Report, name: str) -> Any:
    return ((report.get("recipe") or {}).get("fusion") or {}).get(name)


def _reason(report: Report, option: str, automatic: str) -> str:
    """The reason, or "asked for"."""
    return automatic if _option(report, option) == "auto" else "asked for"


def format_value(value: Any) -> str:
    """A value of a report as text: four digits, yes or no, lists and tables with commas."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_value(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(format_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
