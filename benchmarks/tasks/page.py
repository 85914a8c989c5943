"""The table of all tasks, of the figures of each task and seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressor.bench.metrics import METRICS, Metric, main_metric

#: Of the students' distillation.
STEPS = 100
_TITLES = ("task", "seed", "metric", "teachers", "ensemble", "one-shot", f"after {STEPS} steps",
           "of the better teacher", "its shape, trained as the teachers", "ONNX against torch", "seconds")  # fmt: skip
#: Shares of the better teacher's score that are asked for, one-shot and after distillation.
ASKED = (0.90, 0.97)


def page(folder: Path, tasks: Sequence[str]) -> str:
    """A row per task and seed, from the figures in a folder."""
    files = [(task, file) for task in tasks for file in sorted(folder.glob(f"{task}-[0-9]*.json"))]
    figures = [(task, json.loads(file.read_text(encoding="utf-8"))) for task, file in files]
    lines = [_TITLES, (":--", "--:", ":--", *["--:"] * (len(_TITLES) - 3))]
    lines += [(task, str(found["seed"]), *_cells(found)) for task, found in figures]
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return (
        f"# Tasks\n\nTwo teachers for every seed, trained from scratch on data made here, fused to half width with "
        f"1,024 training samples without labels and distilled for {STEPS} steps. Shares of the better teacher's score: "
        f"at least {ASKED[0]:.0%} one-shot and {ASKED[1]:.0%} after distillation are asked for; what falls short is in "
        f"bold. Where it does, a model of the student's shape was trained as the teachers were, with all labels. "
        f"`python -m benchmarks.tasks`\n\n{rows}\n"
    )


def shares(found: dict[str, Any]) -> tuple[float, float]:
    """The student's scores as shares of the better teacher's, one-shot and after distillation.

    Of rates of errors it is the share of what is right; of a perplexity the ratio of the teacher's to the student's.
    """
    *teachers, _, one_shot, finetuned = found["table"]
    metric = _metric(found)
    best = metric.best(row[metric.name] for row in teachers)

    def share(value: float) -> float:
        if metric.lower and metric.percent:
            return (1 - value) / (1 - best)
        return best / value if metric.lower else value / best

    return share(one_shot[metric.name]), share(finetuned[metric.name])


def _metric(found: dict[str, Any]) -> Metric:
    metric = main_metric(*found["table"])
    assert metric is not None
    return metric


def _cells(found: dict[str, Any]) -> list[str]:
    *teachers, ensemble, one_shot, finetuned = found["table"]
    metric = _metric(found)
    marked = [
        f"{share:.1%}" if share >= asked else f"**{share:.1%}**"
        for share, asked in zip(shares(found), ASKED, strict=True)
    ]
    return [
        metric.title, ", ".join(_score(metric, row) for row in teachers), _score(metric, ensemble),
        _score(metric, one_shot), _score(metric, finetuned), " → ".join(marked),
        _score(metric, found["same_shape"]) if "same_shape" in found else "", f"{found['parity']:.0e}",
        f"{found['seconds']:.0f}",
    ]  # fmt: skip


def _score(metric: Metric, row: dict[str, Any]) -> str:
    return METRICS[metric.name].format(row[metric.name], row.get(f"{metric.name}_error"))
