"""A table's figures as markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.results import Store
from benchmarks.common.setting import Setting
from benchmarks.paper.tables import Cell, Table

#: Sentences about the committed figures, a file a table.
SAID = Path(__file__).parent / "said"
UNIT = {"accuracy": "test accuracy in %", "perplexity": "test perplexity, lower is better"}


def page(table: Table, store: Store, settings: Sequence[Setting]) -> str:
    """The whole page: mean ± standard error over seeds, one sub-table a setting that has figures."""
    machine = store.content["environment"]
    lines = [
        f"# {table.title}",
        "",
        f"`{store.content['command']}`",
        "",
        f"torch {machine['torch']}, transformers {machine['transformers']}, POT {machine['pot']}; {machine['cpu']}, "
        f"{machine['threads']} thread(s). {table.said}",
        "",
    ]
    for setting in settings:
        cells = list(table.cells(setting.name))
        if any(_scores(store, setting, cell, table.seeds) for cell in cells):
            lines += _part(table, store, setting, cells)
    return "\n".join([*lines, *read(store.file.stem)])


def read(name: str) -> list[str]:
    """What a reader of the figures wrote about a table, if anybody did."""
    file = SAID / f"{name}.md"
    return ["## What it says", "", file.read_text(encoding="utf-8")] if file.exists() else []


def _part(table: Table, store: Store, setting: Setting, cells: Sequence[Cell]) -> list[str]:
    rows, columns = (list(dict.fromkeys(getattr(cell, name) for cell in cells)) for name in ("row", "column"))
    trials = {(cell.row, cell.column): cell for cell in cells}
    groups = "; ".join(", ".join(group) for group in setting.teachers)
    calibration = f"{setting.samples} calibration samples"
    lines = [
        f"## {setting.name}: {UNIT[setting.metric]}",
        "",
        f"Teachers by seed: {groups}. "
        + (f"Anchors: {', '.join(setting.anchors)}. " if setting.anchors else "")
        + f"{calibration} unless the table says otherwise; mean ± standard error over {_seeds(table, store, setting)}.",
        "",
        f"| | {' | '.join(columns)} |",
        "|---|" + "--:|" * len(columns),
    ]
    for row in rows:
        shown = [_shown(store, setting, trials.get((row, column)), table.seeds) for column in columns]
        lines.append(f"| {row} | {' | '.join(shown)} |")
    return [*lines, ""]


def _seeds(table: Table, store: Store, setting: Setting) -> str:
    """How many seeds the cells have: fewer where a run was stopped."""
    counts = {len(_figures(store, setting, cell, table.seeds)) for cell in table.cells(setting.name)} - {0}
    least, most = min(counts), max(counts)
    if most == 1:
        return "one seed"
    return f"{most} seeds" if least == most else f"{least} to {most} seeds (those without ± have one)"


def _shown(store: Store, setting: Setting, cell: Cell | None, seeds: int) -> str:
    if cell is None:
        return ""
    scores = _scores(store, setting, cell, seeds)
    if not scores:
        return "refused" if _figures(store, setting, cell, seeds) else ""
    mean = statistics.mean(scores)
    digits = 2 if setting.metric == "perplexity" and mean < 10 else 1
    if len(scores) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(scores) / len(scores) ** 0.5:.{digits}f}"


def _scores(store: Store, setting: Setting, cell: Cell, seeds: int) -> list[float]:
    return [found["score"] for found in _figures(store, setting, cell, seeds) if "score" in found]


def _figures(store: Store, setting: Setting, cell: Cell, seeds: int) -> list[dict[str, Any]]:
    found = (store.get(setting.name, cell.row, cell.column, seed) for seed in range(seeds))
    return [figures for figures in found if figures is not None]
