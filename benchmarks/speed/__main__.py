"""Seconds and peak memory of fusions against the teachers' forward passes over the same calibration samples.

    python -m benchmarks.speed vit-384x4 vit-b-16 -o benchmarks/results/speed
    python -m benchmarks.speed --pair TEACHER_A TEACHER_B --data cifar10 --samples 1024 -o benchmarks/results/speed

Every repeat is a process of its own with one thread: forward passes, fusion, forward passes.  Ratios are of processor
seconds within one process, to the quicker of both forward passes; medians over the repeats.  "Named" fusions are given
maps and shape, so that there is nothing to choose.  Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.cost.memory import peak_above
from benchmarks.speed.settings import SIZES, trained_pair
from compressor.anatomy.hooks import logits_of
from compressor.fusion import fuse_models
from compressor.recipe import FusionOptions

#: Options of a fusion with named maps and shape.
NAMED = {"residual": "principal", "inner": "select", "narrowing": "smaller-heads", "polish": 0}
#: Name of the trained pair in the table.
PAIR = "pair"


def measure(
    models: Sequence[PreTrainedModel], batches: Sequence[Mapping[str, Tensor]], width: float, *, named: bool
) -> dict[str, Any]:
    """Figures of one fusion."""
    forward_seconds(models, batches[:1])
    before = forward_seconds(models, batches)
    start = time.process_time()
    with peak_above() as peak:
        teachers = [(f"teacher {index}", model) for index, model in enumerate(models)]
        result = fuse_models(teachers, width, batches, FusionOptions(**NAMED if named else {}))
    seconds = time.process_time() - start
    forwards = min(before, forward_seconds(models, batches))
    return {
        "parameters": sum(p.numel() for p in models[0].parameters()),
        "forwards": forwards,
        "fusion": seconds,
        "ratio": seconds / forwards,
        "peak_bytes": peak.bytes,
        "stages": result.report["seconds"],
        "pilots": result.report["choice"]["shapes"] or result.report["choice"]["candidates"],
    }


@torch.no_grad()
def forward_seconds(models: Sequence[PreTrainedModel], batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Processor seconds of all forward passes."""
    start = time.process_time()
    for model in models:
        for batch in batches:
            logits_of(model, batch)
    return time.process_time() - start


def table(measured: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """A Markdown table of medians."""
    lines = [
        "| teachers | fusion | parameters | forward passes | fusion | ratio | memory above the teachers |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for key, runs in measured.items():
        name, _, kind = key.partition("/")
        middle = {k: statistics.median(run[k] for run in runs) for k in ("forwards", "fusion", "ratio")}
        peaks = [run["peak_bytes"] for run in runs if run["peak_bytes"] is not None]
        memory = f"{statistics.median(peaks) / 1e9:.2f} GB" if peaks else "–"
        lines.append(
            f"| {name} | {kind} | {runs[0]['parameters'] / 1e6:.3g} M | {middle['forwards']:.2f} s | "
            f"{middle['fusion']:.2f} s | {middle['ratio']:.2f} | {memory} |"
        )
    return "\n".join(lines)


def write(folder: Path, measured: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Write the figures and their page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    machine = f"{platform.machine()}, torch {torch.__version__}, one thread"
    text = (__doc__ or "").strip().partition("\n")[0]
    page = f"# Speed\n\n{text}\n\n{table(measured)}\n\nMedians of processor seconds; {machine}.\n"
    (folder / "speed.md").write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--pair", nargs=2, help="two trained image teachers")
    parser.add_argument("--data", help="images of the pair")
    parser.add_argument("--samples", type=int, default=1024, help="images of the pair")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=("automatic", "named"), default=["automatic", "named"])
    parser.add_argument("--once", action="store_true", help="measure here, once, and print JSON")
    parser.add_argument("-o", "--output", type=Path, help="folder for the figures and their page")
    given = parser.parse_args()
    unknown = [size for size in given.sizes if size not in SIZES]
    if unknown or bool(given.pair) != bool(given.data) or not (given.sizes or given.pair):
        parser.error(f"give sizes of {', '.join(SIZES)}, or --pair with --data")
    if given.once:
        print(json.dumps(_measured_here(given)))
        return
    measured: dict[str, list[dict[str, Any]]] = {}
    for name in [*given.sizes, *([PAIR] if given.pair else [])]:
        for kind in given.kinds:
            runs = measured[f"{name}/{kind}"] = [_measured_apart(given, name, kind) for _ in range(given.repeats)]
            print(f"{name}, {kind}: {', '.join(format(run['ratio'], '.2f') for run in runs)} times", flush=True)
            if given.output is not None:
                write(given.output, measured)
    print(table(measured))


def _measured_here(given: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    if given.pair:
        models, batches = trained_pair(given.pair, given.data, given.samples)
    else:
        size = SIZES[given.sizes[0]]
        models, batches = size.teachers(), size.batches()
    return measure(models, batches, given.width, named=given.kinds == ["named"])


def _measured_apart(given: argparse.Namespace, name: str, kind: str) -> dict[str, Any]:
    """Figures of a process of its own."""
    chosen = ["--pair", *given.pair, "--data", given.data] if name == PAIR else [name]
    command = [
        sys.executable, "-m", "benchmarks.speed", *chosen, "--samples", str(given.samples), "--width",
        str(given.width), "--kinds", kind, "--once",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}, {kind}: {done.stderr.strip().splitlines()[-1]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
