"""The contest's figures as a page and as curves."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.pages import UNIT
from benchmarks.store import Store
from benchmarks.students.contenders import CONTENDERS, OURS, PRUNED, RANDOM, SINGLE, is_anchored
from benchmarks.students.contest import TEACHERS, TRAINED, VALIDATION
from benchmarks.students.settings import EVENTS, Event

#: What the summary is of: events, steps, and contenders with what the summary calls them.
SHOWN, AFTER = ("ViTs, width 0.5", "BERTs, width 0.5", "Llamas, width 0.5"), (0, 200)
IN_SHORT = {
    (RANDOM,): "random start",
    ("slices, by importance",): "slices by importance",
    (PRUNED,): "Torch-Pruning, Taylor (labels)",
    ("folding (k-means)",): "k-means folding",
    ("neuron transplantation",): "neuron transplantation",
    ("trained anchor",): "narrow model trained on labels",
    ("OT fusion into the anchor, as the paper",): "OT fusion into it, as the paper",
    SINGLE: "one teacher with our refit, the better one",
    (OURS,): "**ours**",
}
#: What is compared besides scores.
IN_NATS = {
    "loss": "with the lowest loss on the labels, in thousandths of a nat",
    "kl": "with the lowest KL to the ensemble, in thousandths of a nat",
}
#: Sentences about the committed figures.
SAID = Path(__file__).parent / "said.md"


def page(store: Store) -> str:
    """The whole page: mean ± standard error over seeds, a table an event that has figures."""
    machine = store.content["environment"]
    lines = [
        "# Students of one shape, by how they were made",
        "",
        f"`{store.content['command']}`",
        "",
        f"torch {machine['torch']}, transformers {machine['transformers']}, POT {machine['pot']}; 1 thread. Every "
        "contender gets the same teachers, 1,024 calibration samples (labels only for Torch-Pruning), batches and "
        "steps of distillation from the ensemble; its learning rate for each number of steps is chosen by the first "
        "seed on training samples kept out. Mean ± standard error over seeds; without ± one seed. Memory is the peak "
        "of making the student above what was held before.",
        "",
    ]
    lines += summary(store)
    for event in EVENTS.values():
        if store.get(event.name, TEACHERS, "0", 0) is not None:
            lines += _part(store, event)
    said = ["## What it says", "", SAID.read_text(encoding="utf-8")] if SAID.exists() else []
    return "\n".join([*lines, *said])


def scores(store: Store, event: Event, name: str, steps: int, key: str = "score") -> list[float]:
    """What a contender reached after so many steps, by seed."""
    found = [store.get(event.name, name, str(steps), seed) for seed in range(event.seeds)]
    return [one[key] for one in found if one is not None and key in one]


def summary(store: Store) -> list[str]:
    """A table of the main contenders at half width, one-shot and after some steps, as far as they were measured."""
    events = [EVENTS[name] for name in SHOWN if store.get(name, TEACHERS, "0", 0) is not None]
    columns = [(event, count) for event in events for count in AFTER]
    if not columns:
        return []
    units = {event.name: "%" if event.setting.metric == "accuracy" else event.setting.metric for event in events}
    titles = [
        f"{event.setting.name}, {units[event.name]}: {f'{count} steps' if count else 'one-shot'}"
        for event, count in columns
    ]
    lines = [f"| half width | {' | '.join(titles)} |", "|---|" + "--:|" * len(columns)]
    for names, label in IN_SHORT.items():
        cells = []
        for event, count in columns:
            found = [own for name in names if (own := scores(store, event, name, count))]
            ranked = sorted(found, key=statistics.mean, reverse=event.setting.better(1, 0))
            cells.append(_mean(ranked[0], event) if ranked else "")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [*lines, ""]


def _part(store: Store, event: Event) -> list[str]:
    steps = [count for count in event.steps if any(scores(store, event, name, count) for name in CONTENDERS)]
    seeds = range(event.seeds)
    found: list[Any] = [store.get(event.name, TEACHERS, "0", seed) for seed in seeds]
    teachers = list(zip(*(one["scores"] for one in found if one), strict=True))
    labels = [*(f"teacher {k + 1}" for k in range(len(teachers) - 1)), "ensemble"]
    lines = [
        f"## {event.name}: {UNIT[event.setting.metric]}",
        "",
        "; ".join(f"{label} {_mean(list(own), event)}" for label, own in zip(labels, teachers, strict=True)) + ".",
        "",
        "| | KL one-shot | "
        + " | ".join("one-shot" if not n else f"{n} steps" for n in steps)
        + " | CPU seconds to make | MB above |",
        "|---|" + "--:|" * (len(steps) + 3),
    ]
    for name in CONTENDERS:
        own = [scores(store, event, name, count) for count in steps]
        if any(own):
            kl = scores(store, event, name, 0, "kl")
            making = [one for count in steps for one in scores(store, event, name, count, "making")]
            cells = [f"{statistics.mean(kl):.3g}" if kl else "", *(_mean(one, event) for one in own)]
            cells.append(f"{statistics.mean(making):.0f}" if making else "")
            memory = [one for count in steps for one in scores(store, event, name, count, "memory") if one is not None]
            cells.append(f"{max(memory) / 1e6:.0f}" if memory else "")
            trained = store.setting(event.name).get(TRAINED)
            more = f" ({trained:,} steps on labels before)" if trained and is_anchored(name) else ""
            lines.append(f"| {name}{more} | {' | '.join(cells)} |")
    return [*lines, "", *_earned(store, event, steps), *_reach(store, event, steps), *_machines(store, event)]


def _machines(store: Store, event: Event) -> list[str]:
    """Where the figures were measured."""
    cells = store.setting(event.name)["cells"].values()
    measured = [one for row in cells for column in row.values() for one in column.values() if "refused" not in one]
    found = {one.get("cpu", store.content["environment"]["cpu"]) for one in measured}
    return [f"Measured on {' and '.join(sorted(found))}.", ""]


def _earned(store: Store, event: Event, steps: Sequence[int]) -> list[str]:
    """How far ours is before the students of one teacher, seed by seed and by every yardstick."""
    alone = SINGLE[: len(event.setting.teachers[0])]
    said: dict[str, list[str]] = {}
    for count in steps:
        ahead: dict[str, list[float]] = {}
        for seed in range(event.seeds):
            found = [one for name in (OURS, *alone) if (one := store.get(event.name, name, str(count), seed))]
            # A recipe trained on another machine gives teachers that differ a little: those are not compared.
            if len(found) == len(alone) + 1 and len({one.get("teachers") for one in found}) == 1:
                teachers = store.get(event.name, TEACHERS, "0", seed) or {}
                for yardstick, lead in _leads(event, found, teachers.get(VALIDATION)).items():
                    ahead.setdefault(yardstick, []).append(lead)
        for yardstick, leads in ahead.items():
            if len(leads) > 1:
                error = statistics.stdev(leads) / len(leads) ** 0.5
                said.setdefault(yardstick, []).append(f"{count}: {statistics.mean(leads):+.2f} ± {error:.2f}")
    if not said:
        return []
    lines = ["Ours before the student of one teacher, by seed, after … steps:", ""]
    return [*lines, *(f"- {yardstick}: {'; '.join(leads)}" for yardstick, leads in said.items()), ""]


def _leads(
    event: Event, found: Sequence[dict[str, Any]], validation: Sequence[float] | None = None
) -> dict[str, float]:
    """How far the first is before the others.

    Args:
        event: what is contended for.
        found: figures of ours, and of the student of each teacher.
        validation: scores of the teachers, and of their ensemble, on data that nothing else is judged by.
    """
    sign = 1 if event.setting.better(1, 0) else -1
    ours, *others = [sign * one["score"] for one in found]
    leads = {f"of teacher {k + 1}": ours - score for k, score in enumerate(others)}
    if validation:
        alone = [sign * score for score in validation[: len(others)]]
        leads["of the better teacher by validation data"] = ours - others[alone.index(max(alone))]
    leads["that the test favours"] = ours - max(others)
    for key, yardstick in IN_NATS.items():
        if all(key in one for one in found):
            own, *theirs = [1000 * one[key] for one in found]
            leads[yardstick] = min(theirs) - own
    return leads


def _reach(store: Store, event: Event, steps: Sequence[int]) -> list[str]:
    """After how many steps a random start is where ours is after fewer."""
    theirs = {n: statistics.mean(own) for n in steps if n and (own := scores(store, event, RANDOM, n))}
    said = []
    for count in steps if theirs else ():
        if ours := scores(store, event, OURS, count):
            wanted = statistics.mean(ours)
            reached = [n for n, score in theirs.items() if not event.setting.better(wanted, score)]
            said.append(f"{count}: {f'{reached[0]} steps' if reached else f'more than {max(theirs)} steps'}")
    return [f"A random start reaches ours after … steps only after: {'; '.join(said)}.", ""] if said else []


def _mean(values: Sequence[float], event: Event) -> str:
    if not values:
        return ""
    mean = statistics.mean(values)
    digits = 2 if event.setting.metric == "perplexity" and mean < 10 else 1
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"
