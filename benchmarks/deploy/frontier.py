"""Distance from the ensemble against time in ONNX Runtime, of finished students of several widths and shapes.

    compress fuse --width 0.5 --narrowing all-heads A B --data cifar10 --no-finetune -o frontier/half-12
    ...
    python -m benchmarks.deploy.frontier frontier/* --teacher A -o docs/frontier.svg

Every folder is of a run that measured its student and wrote its ONNX file; a teacher's file is made here.  All files
take turns.  Widths of one way to narrow attention are joined by a line, and the default one is filled.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from transformers import AutoConfig

from compressor.bench.latency import measure_latency, onnx_runner
from compressor.export.onnx import write_onnx
from compressor.models.inputs import dummy_inputs
from compressor.models.load import load_teacher
from compressor.report.landscape_figures import save_figure

#: Tokens of texts.
_LENGTH = 64


@dataclass(frozen=True)
class MeasuredStudent:
    """A student of a run: its shape, score, and KL from the ensemble; `ffn`: the share of hidden units."""

    folder: Path
    narrowing: str
    heads: str
    width: float
    ffn: float
    accuracy: float
    kl: float

    @property
    def series(self) -> str:
        """What its line in the figure is called."""
        return self.narrowing if self.ffn == self.width else f"{self.narrowing}, fewer hidden units"

    @property
    def shares(self) -> str:
        """Its width, and the share of hidden units where that is another."""
        return f"{self.width:g}" if self.ffn == self.width else f"{self.width:g}, FFN {self.ffn:g}"


def main(
    students: Annotated[list[Path], typer.Argument(help="Folders of runs with the same teachers and data.")],
    teacher: Annotated[str, typer.Option(help="One of their teachers.")],
    output: Annotated[Path, typer.Option("-o", help="Where the figure goes (.svg or .png).")],
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,32",
    threads: Annotated[int, typer.Option(help="Threads.")] = 1,
    seconds: Annotated[float, typer.Option(help="Least measuring time of each file and batch size.")] = 5.0,
) -> None:
    """Draw the frontier, and print its figures."""
    found = [measured_student(folder) for folder in students]
    times: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = load_teacher(teacher).model
        paths = {"teacher": write_onnx(model, scratch, batch_sizes=(1,)).path}
        paths |= {str(one.folder): one.folder / "onnx" / "model.onnx" for one in found}
        for batch in map(int, batches.split(",")):
            inputs = dummy_inputs(model.config, batch, _LENGTH)
            runners = {name: onnx_runner(path, inputs, threads) for name, path in paths.items()}
            times[batch] = {name: one.p50_ms for name, one in measure_latency(runners, seconds=seconds).items()}
    for line in table(found, times):
        typer.echo(line)
    draw(found, times, threads, output)


def measured_student(folder: Path) -> MeasuredStudent:
    """What a run's folder says of its student."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    row, recipe, config = report["table"][-1], report["recipe"], AutoConfig.from_pretrained(folder)
    count = config.num_attention_heads
    heads = f"{count} heads of {config.hidden_size // count}"
    ffn = recipe["fusion"]["ffn"] or recipe["width"]
    return MeasuredStudent(
        folder, recipe["fusion"]["narrowing"], heads, recipe["width"], ffn, row["accuracy"], row["kl"]
    )


def table(students: Sequence[MeasuredStudent], times: dict[int, dict[str, float]]) -> list[str]:
    """Rows in Markdown, by width and shape."""
    batches = list(times)
    heads = [f"batch {batch}: ms, times as fast as a teacher" for batch in batches]
    lines = [f"| width, heads | accuracy, % | KL | {' | '.join(heads)} |", f"|---|--:|--:|{'--:|' * len(batches)}"]
    for one in sorted(students, key=lambda one: (one.width, one.kl)):
        cells = [
            f"{times[batch][str(one.folder)]:.2f}, {times[batch]['teacher'] / times[batch][str(one.folder)]:.2f}"
            for batch in batches
        ]
        name = f"{one.shares}, {one.heads}"
        lines.append(f"| {name} | {100 * one.accuracy:.1f} | {one.kl:.4f} | {' | '.join(cells)} |")
    return lines


def draw(students: Sequence[MeasuredStudent], times: dict[int, dict[str, float]], threads: int, output: Path) -> None:
    """A panel for each batch size: time in ONNX Runtime, and the KL."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(times), 3.4), layout="constrained")
    panels = figure.subplots(1, len(times), squeeze=False)[0]
    names = list(dict.fromkeys(one.series for one in students))
    for panel, (batch, measured) in zip(panels, times.items(), strict=True):
        for index, name in enumerate(names):
            line = sorted((one for one in students if one.series == name), key=lambda one: (one.width, one.ffn))
            across = [measured[str(one.folder)] for one in line]
            filled = "full" if name == "auto" else "none"
            panel.plot(across, [one.kl for one in line], marker="o", fillstyle=filled, color=f"C{index}", label=name)
            # The names of the first line are left of it, out of the way of the others.
            place = {"xytext": (-5, -9), "ha": "right"} if index == 0 else {"xytext": (5, 4)}
            for x, one in zip(across, line, strict=True):
                text = f"{one.shares}: {100 * one.accuracy:.1f} %"
                panel.annotate(text, (x, one.kl), **place, textcoords="offset points", fontsize=7)
        panel.axvline(measured["teacher"], color="tab:grey", linewidth=1, linestyle=":")
        panel.annotate(
            "a teacher", (measured["teacher"], 1), xycoords=("data", "axes fraction"), xytext=(-3, -10),
            textcoords="offset points", ha="right", fontsize=7, color="tab:grey",
        )  # fmt: skip
        panel.set_yscale("log")
        panel.margins(y=0.15)
        panel.set_xlim(left=0)
        panel.set_xlabel(f"ms, batch {batch}, {threads} thread{'s' * (threads > 1)}")
    panels[0].set_ylabel("KL to the ensemble, nats")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=8)
    save_figure(figure, output)


if __name__ == "__main__":
    typer.run(main)
