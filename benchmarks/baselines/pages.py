"""The contest's figures as a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.baselines.contenders import CONTENDERS, is_anchored
from benchmarks.baselines.contest import MOST_TRIAL, TEACHERS, TRAINED, settled
from benchmarks.baselines.figures import DAGGER, cell, mean, scores
from benchmarks.baselines.leads import earned, reach
from benchmarks.baselines.settings import EVENTS, Event
from benchmarks.baselines.short import elsewhere, summary
from benchmarks.common.results import Store
from benchmarks.paper.pages import UNIT

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
        f"seed on training samples kept out, by trials of as many steps (at most {MOST_TRIAL}). Mean ± "
        "standard error over seeds; without ± one seed. Memory is the peak of making the student above what was held "
        f"before. Behind{DAGGER} stands what is of former rules, as said below the tables.",
        "",
    ]
    lines += [*summary(store), *elsewhere(store)]
    for event in EVENTS.values():
        if store.get(event.name, TEACHERS, "0", 0) is not None:
            lines += _part(store, event)
    said = ["## What it says", "", SAID.read_text(encoding="utf-8")] if SAID.exists() else []
    return "\n".join([*lines, *said])


def _part(store: Store, event: Event) -> list[str]:
    steps = [count for count in event.steps if any(scores(store, event, name, count) for name in CONTENDERS)]
    seeds = range(event.seeds)
    found: list[Any] = [store.get(event.name, TEACHERS, "0", seed) for seed in seeds]
    teachers = list(zip(*(one["scores"] for one in found if one), strict=True))
    labels = [*(f"teacher {k + 1}" for k in range(len(teachers) - 1)), "ensemble"]
    lines = [
        f"## {event.name}: {UNIT[event.setting.metric]}",
        "",
        "; ".join(f"{label} {mean(list(own), event)}" for label, own in zip(labels, teachers, strict=True)) + ".",
        "",
        "| | KL one-shot | "
        + " | ".join("one-shot" if not n else f"{n} steps" for n in steps)
        + " | CPU seconds to make | MB above |",
        "|---|" + "--:|" * (len(steps) + 3),
    ]
    for name in CONTENDERS:
        if any(scores(store, event, name, count) for count in steps):
            kl = scores(store, event, name, 0, "kl")
            making = [one for count in steps for one in scores(store, event, name, count, "making")]
            cells = [f"{statistics.mean(kl):.3g}" if kl else "", *(cell(store, event, name, n) for n in steps)]
            cells.append(f"{statistics.mean(making):.0f}" if making else "")
            memory = [one for count in steps for one in scores(store, event, name, count, "memory") if one is not None]
            cells.append(f"{max(memory) / 1e6:.0f}" if memory else "")
            trained = store.setting(event.name).get(TRAINED)
            more = f" ({trained:,} steps on labels before)" if trained and is_anchored(name) else ""
            lines.append(f"| {name}{more} | {' | '.join(cells)} |")
    said = (_refused, earned, reach, _former, _machines)
    return [*lines, "", *(line for part in said for line in part(store, event, steps))]


def _refused(store: Store, event: Event, steps: Sequence[int]) -> list[str]:
    """Who cannot make such a student, and why."""
    found = {name: store.get(event.name, name, "0", 0) or {} for name in CONTENDERS}
    said = [f"{name} cannot: {one['refused']}." for name, one in found.items() if "refused" in one]
    return [line for one in said for line in (one, "")]


def _former(store: Store, event: Event, steps: Sequence[int]) -> list[str]:
    """How many figures are of former students, or of finetunes by former rules."""
    known = [
        settled(one, event, count)
        for name in CONTENDERS
        for count in steps
        for seed in range(event.seeds)
        if (one := store.get(event.name, name, str(count), seed)) and "score" in one
    ]
    old = known.count(False)
    if not old:
        return []
    return [
        f"{DAGGER.strip()} {old} of {len(known)} figures are of former rules (learning rates by trials of a fifth of "
        "the steps and up to 3e-3, language models distilled at temperature 2, students of a former version): the "
        "command measures them anew.",
        "",
    ]


def _machines(store: Store, event: Event, steps: Sequence[int]) -> list[str]:
    """Where the figures were measured."""
    cells = store.setting(event.name)["cells"].values()
    measured = [one for row in cells for column in row.values() for one in column.values() if "refused" not in one]
    found = {one.get("cpu", store.content["environment"]["cpu"]) for one in measured}
    return [f"Measured on {' and '.join(sorted(found))}.", ""]
