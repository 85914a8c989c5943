"""The contest's figures as curves over the steps of distillation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.baselines.contenders import CONTENDERS, OURS, PRUNED, RANDOM, SINGLE, is_anchored
from benchmarks.baselines.contest import TEACHERS, TRAINED
from benchmarks.baselines.figures import scores
from benchmarks.baselines.settings import EVENTS, Event
from benchmarks.common.results import Store
from benchmarks.paper.pages import UNIT
from compressor.report.landscape_figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Steps that must have been measured for a curve.
FEWEST = 3
#: Who is in the overview, and of which events.
OVERVIEW = (OURS, *SINGLE, PRUNED, RANDOM)
EVENTS_SHOWN = ("ViTs, width 0.5", "BERTs, width 0.5", "Llamas, width 0.5")
#: What a start from nothing leaves in sight: the axis ends so many of the others' ranges beyond them.
MARGIN = 0.1


def draw(store: Store, folder: Path) -> None:
    """The curves of every event with enough step counts, an SVG each, and an overview of the main ones.

    Args:
        store: the figures.
        folder: for the files.
    """
    from matplotlib.figure import Figure

    for event in EVENTS.values():
        if len(_steps(store, event)) >= FEWEST:
            figure = Figure(figsize=(7, 4.5), layout="constrained")
            axes = figure.subplots()
            _curves(axes, store, event, list(CONTENDERS))
            axes.legend(fontsize=6, ncols=2)
            name = event.name.lower().replace(",", "").replace(" ", "-").replace(".", "")
            save_figure(figure, folder / f"{name}.svg")
    shown = [EVENTS[name] for name in EVENTS_SHOWN if len(_steps(store, EVENTS[name])) >= FEWEST]
    if shown:
        figure = Figure(figsize=(4 * len(shown), 3.6), layout="constrained")
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, event in zip(panels, shown, strict=True):
            _curves(axes, store, event, OVERVIEW)
            _near(axes, store, event)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
        save_figure(figure, folder / "overview.svg")


def _steps(store: Store, event: Event) -> list[int]:
    return [count for count in event.steps if scores(store, event, OURS, count)]


def _curves(axes: Axes, store: Store, event: Event, names: Sequence[str]) -> None:
    """Means with their standard errors, and the ensemble as a line."""
    from matplotlib import colormaps

    # A random start is followed for longer than ours.
    steps = [count for count in event.steps if any(scores(store, event, name, count) for name in names)]
    trained = store.setting(event.name).get(TRAINED, 0)
    for name in names:
        before = trained if is_anchored(name) else 0
        points = [(before + n, own) for n in steps if (own := scores(store, event, name, n))]
        if points:
            means = [statistics.mean(own) for _, own in points]
            errors = [statistics.stdev(own) / len(own) ** 0.5 if len(own) > 1 else 0.0 for _, own in points]
            wide = 2.5 if name == OURS else 1
            colour = "black" if name == OURS else colormaps["tab20"](list(CONTENDERS).index(name))
            axes.errorbar(
                [n for n, _ in points],
                means,
                errors,
                marker="o",
                markersize=3,
                linewidth=wide,
                label=name,
                color=colour,
            )
    ensemble = _ensemble(store, event)
    if ensemble is not None:
        axes.axhline(ensemble, color="grey", linestyle=":", linewidth=1, label="ensemble")
    axes.set_xscale("symlog", linthresh=50, linscale=0.5)
    axes.set_xticks(steps, [str(count) for count in steps])
    axes.minorticks_off()
    axes.set_xlabel("steps of distillation")
    axes.set_ylabel(UNIT[event.setting.metric])
    axes.set_title(event.name)


def _ensemble(store: Store, event: Event) -> float | None:
    """The mean score of the seeds' ensembles."""
    found = [store.get(event.name, TEACHERS, "0", seed) for seed in range(event.seeds)]
    return statistics.mean(one["scores"][-1] for one in found if one) if any(found) else None


def _near(axes: Axes, store: Store, event: Event) -> None:
    """Show what lies between the ensemble and a pruned teacher after its first steps; a start from nothing may not."""
    best, worst = _ensemble(store, event), scores(store, event, PRUNED, 50)
    if best is None or not worst:
        return
    ends = (best, statistics.mean(worst))
    room = MARGIN * abs(ends[0] - ends[1])
    axes.set_ylim(min(ends) - room, max(ends) + room)
