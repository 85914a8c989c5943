"""The figures of unlike teachers as a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.baselines.contest import TEACHERS
from benchmarks.baselines.figures import mean
from benchmarks.baselines.settings import Event
from benchmarks.common.results import Store
from benchmarks.experts.contenders import CONTENDERS
from benchmarks.experts.contest import KEPT_OUT, RATES, TRIALS
from benchmarks.experts.figures import cells, leads, measured_samples, measured_steps, values
from benchmarks.experts.settings import EVENTS
from benchmarks.paper.pages import UNIT


def page(store: Store) -> str:
    """The whole page: a part for every setting that has figures."""
    machine = store.content["environment"]
    lines = [
        "# Students of unlike teachers",
        "",
        f"`{store.content['command']}`",
        "",
        f"torch {machine['torch']}, transformers {machine['transformers']}; {machine['cpu']}, 1 thread. Half width. "
        "All contenders get the same unlabelled samples, for calibration and distillation alike, the same batches and "
        "steps, and learn from the same mixture, which is chosen without labels. Ours also learns from the streams it "
        "was fused from where samples come more than four times, as `--losses auto` does; others have no map to "
        "the streams of all teachers. Each chooses its learning rate, or to stay as it was, from "
        f"{', '.join(f'{rate:g}' for rate in RATES)} by trials of {' or '.join(map(str, TRIALS))} steps on "
        f"{KEPT_OUT:.1%} of the first draw's samples, kept out, of a student that is made without these. Cells: score, "
        "and in brackets the KL to the mixture in nats; mean ± standard error over draws of the samples, without ± one "
        "draw.",
        "",
    ]
    for event in EVENTS.values():
        for samples in measured_samples(store, event):
            lines += _part(store, event, samples)
    return "\n".join(lines)


def _part(store: Store, event: Event, samples: int) -> list[str]:
    setting, steps = event.setting, measured_steps(store, event, samples)
    (first, *_) = cells(store, event, TEACHERS, samples, 0)
    labels = [*setting.teachers[0], f"mixture ({first['mixture']})"]
    lines = [f"## {setting.name}, {samples:,} samples: {UNIT[setting.metric]}", ""]
    if setting.test:
        lines += [f"The first {setting.test:,} test samples.", ""]
    titles = ["one-shot" if not count else f"{count} steps" for count in steps]
    parts = list(first["figures"][-1]["parts"])
    lines += [f"| | {' | '.join([*titles, *(f'{part}, one-shot' for part in parts)])} |"]
    lines += ["|---|" + "--:|" * (len(titles) + len(parts))]
    for label, figures in zip(labels, first["figures"], strict=True):
        alone = [f"{mean([figures['score']], event)} ({figures['kl']:.3f})", *[""] * (len(titles) - 1)]
        lines.append(_row(f"*{label}*", [*alone, *(mean([figures["parts"][part]], event) for part in parts)]))
    for name in CONTENDERS:
        if any(cells(store, event, name, samples, count) for count in steps):
            by_part = [
                mean([one["parts"][part] for one in cells(store, event, name, samples, 0)], event) for part in parts
            ]
            lines.append(_row(name, [*(_cell(store, event, name, samples, count) for count in steps), *by_part]))
    return [*lines, "", *_leads(store, event, samples, steps)]


def _row(label: str, texts: Sequence[str]) -> str:
    return f"| {label} | {' | '.join(texts)} |"


def _cell(store: Store, event: Event, name: str, samples: int, steps: int) -> str:
    kl = values(store, event, name, samples, steps, "kl")
    if not kl:
        return ""
    return f"{mean(values(store, event, name, samples, steps), event)} ({statistics.mean(kl):.3f})"


def _leads(store: Store, event: Event, samples: int, steps: Sequence[int]) -> list[str]:
    """How far ours is before the better part's student, draw by draw."""
    lines = []
    for key, unit in (("score", UNIT[event.setting.metric]), ("kl", "KL, nats")):
        digits = 3 if key == "kl" else 1
        found = {count: own for count in steps if len(own := leads(store, event, samples, count, key)) > 1}
        texts = [
            f"{count}: {statistics.mean(own):+.{digits}f} ± {statistics.stdev(own) / len(own) ** 0.5:.{digits}f}"
            for count, own in found.items()
        ]
        if texts:
            lines.append(f"- Ours before whichever part's student is better in this very cell, {unit}, after … steps:")
            lines[-1] += f" {'; '.join(texts)}."
    return [*lines, ""] if lines else []
