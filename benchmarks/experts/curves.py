"""The figures of unlike teachers as curves over the steps of distillation."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.baselines.contenders import OURS, RANDOM, SINGLE
from benchmarks.baselines.contest import TEACHERS
from benchmarks.baselines.settings import Event
from benchmarks.common.results import Store
from benchmarks.experts.figures import cells, measured_samples, measured_steps, values
from benchmarks.experts.settings import EVENTS
from benchmarks.paper.pages import UNIT
from compressor.report.landscape_figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Steps that must have been measured for a curve.
FEWEST = 3
#: What a figure calls them, and their colours.
LABELS = {
    OURS: ("both fused (ours)", "black"),
    SINGLE[0]: ("part 1's student", "tab:blue"),
    SINGLE[1]: ("part 2's student", "tab:orange"),
    SINGLE[2]: ("part 3's student", "tab:green"),
    RANDOM: ("random start", "tab:grey"),
}


def draw(store: Store, folder: Path) -> None:
    """An SVG for each setting with enough steps: scores and KL, a row of panels for each number of samples."""
    from matplotlib.figure import Figure

    for event in EVENTS.values():
        shown = [
            samples
            for samples in measured_samples(store, event)
            if len(measured_steps(store, event, samples)) >= FEWEST
        ]
        if not shown:
            continue
        figure = Figure(figsize=(8, 3.2 * len(shown) + 0.4), layout="constrained")
        panels = figure.subplots(len(shown), 2, squeeze=False)
        for (left, right), samples in zip(panels, shown, strict=True):
            _curves(left, store, event, samples, "score")
            _curves(right, store, event, samples, "kl")
            left.set_ylabel(UNIT[event.setting.metric])
            right.set_ylabel("KL to the mixture, nats")
            right.set_yscale("log")
            left.set_title(f"{event.setting.name}, {samples:,} samples", fontsize=9)
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        save_figure(figure, folder / f"{event.setting.name.lower().replace(' ', '-')}.svg")


def _curves(axes: Axes, store: Store, event: Event, samples: int, key: str) -> None:
    """Means over draws with their standard errors, and the teachers' scores as lines."""
    steps = measured_steps(store, event, samples)
    for name, (label, colour) in LABELS.items():
        points = [(n, own) for n in steps if (own := values(store, event, name, samples, n, key))]
        if points:
            errors = [statistics.stdev(own) / len(own) ** 0.5 if len(own) > 1 else 0.0 for _, own in points]
            axes.errorbar(
                [n for n, _ in points],
                [statistics.mean(own) for _, own in points],
                errors,
                marker="o",
                markersize=3,
                linewidth=2.5 if name == OURS else 1,
                label=label,
                color=colour,
            )
    if key == "score":
        (first, *_) = cells(store, event, TEACHERS, samples, 0)
        *parts, mixture = [figures[key] for figures in first["figures"]]
        axes.axhline(mixture, color="grey", linestyle=":", linewidth=1, label="mixture of the parts")
        for index, score in enumerate(parts):
            axes.axhline(score, label=None if index else "the parts", color="grey", linestyle="--", linewidth=0.7)
    axes.set_xscale("symlog", linthresh=10, linscale=0.5)
    axes.set_xticks(steps, [str(count) for count in steps])
    axes.minorticks_off()
    axes.set_xlabel("steps of distillation")
