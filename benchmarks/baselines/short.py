"""The contest in short: main contenders at half width, and ours beside the next best elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.baselines.contenders import CHANNELS, OURS, PRUNED, RANDOM, SINGLE
from benchmarks.baselines.contest import TEACHERS
from benchmarks.baselines.figures import cell, scores
from benchmarks.baselines.settings import EVENTS, Event
from benchmarks.common.results import Store

#: Kinds of teachers, and the steps that are shown.
KINDS, AFTER = ("ViTs", "BERTs", "Llamas"), (0, 200)
#: Contenders, of which that with the best mean is shown, and what they are called.
Rows = Mapping[tuple[str, ...], str]
PRUNING = "Torch-Pruning, Taylor (labels), heads or channels"
IN_SHORT: Rows = {
    (RANDOM,): "random start",
    ("slices, by importance",): "slices by importance",
    (PRUNED, CHANNELS): PRUNING,
    ("folding (k-means)",): "k-means folding",
    ("neuron transplantation",): "neuron transplantation",
    ("trained anchor",): "narrow model trained on labels",
    ("OT fusion into the anchor, as the paper",): "OT fusion into it, as the paper",
    SINGLE: "one teacher with our refit, the better one",
    (OURS,): "**ours**",
}
NEXT: Rows = {
    (PRUNED, CHANNELS): PRUNING,
    SINGLE: "one teacher with our refit, the best one",
    (OURS,): "**ours**",
}
#: Events beside each other: other widths, and more teachers.
ELSEWHERE = {
    **{kind: {f"width {width}": f"{kind}, width {width}" for width in (0.75, 0.5, 0.33, 0.25)} for kind in KINDS},
    "small ViTs": {
        f"{count} teachers": f"{name}, width 0.5"
        for count, name in (("two", "small ViTs"), ("three", "three small ViTs"), ("four", "four small ViTs"))
    },
}


def summary(store: Store) -> list[str]:
    """Half width, all kinds of teachers beside each other, as far as they were measured."""
    events = [EVENTS[f"{kind}, width 0.5"] for kind in KINDS]
    columns = {f"{event.setting.name}, {_unit(event)}": event for event in events if _measured(store, event.name)}
    return _table(store, "half width", columns, IN_SHORT) if columns else []


def elsewhere(store: Store) -> list[str]:
    """A table for each kind of teachers: other widths, and more teachers."""
    lines = []
    for kind, names in ELSEWHERE.items():
        columns = {title: EVENTS[name] for title, name in names.items() if _measured(store, name)}
        if len(columns) > 1:
            lines += _table(store, f"{kind}, {_unit(next(iter(columns.values())))}", columns, NEXT)
    return lines


def _table(store: Store, corner: str, columns: Mapping[str, Event], rows: Rows) -> list[str]:
    """Scores as they are made and after some steps, two columns an event."""
    titles = [f"{title}: {f'{count} steps' if count else 'one-shot'}" for title in columns for count in AFTER]
    lines = [f"| {corner} | {' | '.join(titles)} |", "|---|" + "--:|" * len(titles)]
    for names, label in rows.items():
        cells = [_best(store, event, names, count) for event in columns.values() for count in AFTER]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [*lines, ""]


def _best(store: Store, event: Event, names: Sequence[str], steps: int) -> str:
    found = {name: statistics.mean(own) for name in names if (own := scores(store, event, name, steps))}
    ranked = sorted(found, key=lambda name: found[name], reverse=event.setting.better(1, 0))
    return cell(store, event, ranked[0], steps) if ranked else ""


def _measured(store: Store, name: str) -> bool:
    return store.get(name, TEACHERS, "0", 0) is not None


def _unit(event: Event) -> str:
    return "%" if event.setting.metric == "accuracy" else event.setting.metric
