"""Held-out KL of the shapes that a run tried against the measured time of files of these shapes.

    python -m benchmarks.deploy.frontier STUDENT --pair cifar10-vit --files FOLDER -o docs/frontier.svg

STUDENT is the folder of a run that weighed several shapes (`--prefer`).  Time depends on shapes alone: files have
random weights, are made as `benchmarks.deploy.ratios` makes them, and stay in FOLDER for the next time; all take turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.deploy.ratios import PAIRS, models
from compressor.bench.latency import measure_latency, onnx_runner
from compressor.export.onnx import write_onnx
from compressor.models.inputs import dummy_inputs
from compressor.models.meta import model_class
from compressor.report.landscape_figures import save_figure

#: Tokens of texts.
_LENGTH = 64


@dataclass(frozen=True)
class TriedShape:
    """A shape's heads, such as "12 heads of 8", the least KL of its pilots, and whether it was taken."""

    name: str
    kl: float
    taken: bool


def main(
    student: Annotated[Path, typer.Argument(help="Folder of a run.")],
    pair: Annotated[str, typer.Option(help=f"Its teachers' shape: {', '.join(PAIRS)}.")],
    files: Annotated[Path, typer.Option(help="Folder of the files that are timed.")],
    output: Annotated[Path, typer.Option("-o", help="Where the figure goes (.svg or .png).")],
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,32",
    threads: Annotated[int, typer.Option(help="Threads.")] = 1,
    seconds: Annotated[float, typer.Option(help="Least measuring time of each file and batch size.")] = 5.0,
) -> None:
    """Draw the frontier, and print its figures."""
    choices = json.loads((student / "report.json").read_text(encoding="utf-8"))["fusion"]["choices"]
    shapes = tried_shapes(choices)
    paths = timed_files(pair, files)
    times: dict[int, dict[str, float]] = {}
    for batch in map(int, batches.split(",")):
        inputs = dummy_inputs(PAIRS[pair], batch, _LENGTH)
        runners = {name: onnx_runner(path, inputs, threads) for name, path in paths.items()}
        times[batch] = {name: one.p50_ms for name, one in measure_latency(runners, seconds=seconds).items()}
        for shape in shapes:
            ratio = times[batch]["teacher"] / times[batch][shape.name]
            typer.echo(
                f"batch {batch}, {shape.name}: held-out KL {shape.kl:.4f}, {times[batch][shape.name]:.2f} ms, "
                f"{ratio:.2f} times as fast as a teacher{', taken' if shape.taken else ''}"
            )
    draw(shapes, times, threads, output)


def tried_shapes(choices: Mapping[str, Any]) -> list[TriedShape]:
    """The shapes of a report's choices, each with its best maps."""
    least: dict[str, float] = {}
    for trial in choices["shapes"]:
        measure = next(value for key, value in trial.items() if "_kl" in key)
        name = heads_of(trial["candidate"])
        least[name] = min(measure, least.get(name, measure))
    return [TriedShape(name, kl, name == heads_of(choices["attention"])) for name, kl in least.items()]


def heads_of(label: str) -> str:
    """The heads that a label names, as `benchmarks.deploy.ratios` does."""
    found = re.search(r"(\d+)\D*? heads? of (\d+)", label)
    if found is None:
        raise ValueError(f"no heads in {label!r}")
    return f"{found[1]} heads of {found[2]}"


def timed_files(pair: str, folder: Path) -> dict[str, Path]:
    """{"teacher" or heads: file}; missing ones are made."""
    paths = {}
    for name, config in models(PAIRS[pair]):
        paths[name] = folder / name.replace(" ", "-") / "onnx" / "model.onnx"
        if not paths[name].is_file():
            torch.manual_seed(0)
            model = model_class(config)._from_config(config).eval()
            write_onnx(model, paths[name].parents[1], batch_sizes=(1,))
    return paths


def draw(shapes: Sequence[TriedShape], times: Mapping[int, Mapping[str, float]], threads: int, output: Path) -> None:
    """A panel for each batch size: time in ONNX Runtime, and the KL."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(times), 2.8), layout="constrained")
    panels = figure.subplots(1, len(times), squeeze=False)[0]
    for panel, (batch, measured) in zip(panels, times.items(), strict=True):
        points = sorted((measured[shape.name], shape.kl, shape) for shape in shapes)
        panel.plot([x for x, _, _ in points], [y for _, y, _ in points], color="tab:grey", linewidth=1, zorder=1)
        for x, y, shape in points:
            panel.scatter(x, y, color="black" if shape.taken else "tab:blue", zorder=2)
            text = f"{shape.name}\n{measured['teacher'] / x:.1f}× a teacher"
            panel.annotate(text, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
        panel.set_yscale("log")
        panel.margins(x=0.35, y=0.3)
        panel.set_xlabel(f"ms, batch {batch}, {threads} thread{'s' * (threads > 1)}")
    panels[0].set_ylabel("held-out KL to the ensemble, nats")
    save_figure(figure, output)


if __name__ == "__main__":
    typer.run(main)
