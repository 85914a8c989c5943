"""What a fusion costs by the size of its teachers: seconds and memory of each stage, beside plain averaging.

    python -m benchmarks.paper.overhead -o benchmarks/results/paper

Two ViTs of random weights on random images, each fusion in a process of its own.  Sizes that are there already are not
measured again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils import logging

from benchmarks.common.results import Store
from benchmarks.paper.pages import read
from compressor.fusion import fuse_models
from compressor.pipeline.environment import environment
from compressor.recipe import FusionOptions
from compressor.utils.process_memory import peak_memory

#: Width, layers and heads of ViTs for images of 224 pixels in patches of 32: from 1 M to 300 M parameters.
SHAPES = {"1 M": (96, 4, 3), "6 M": (192, 12, 3), "22 M": (384, 12, 6), "87 M": (768, 12, 12), "306 M": (1024, 24, 16)}
SAMPLES = 64
BATCH = 16
WAYS: Mapping[str, dict[str, Any]] = {
    "vanilla": {"residual": "identity", "refit": False},
    "averaging, hard": {
        "residual": "averaging", "refit": False,
        "alignment": {"preparation": "standardised", "heads": "across", "normalise": "max"},
    },
    "averaging, soft": {
        "residual": "averaging", "refit": False,
        "alignment": {
            "preparation": "standardised", "heads": "across", "normalise": "max", "solver": "sinkhorn", "epsilon": 0.03,
        },
    },
    "global, hard": {"residual": "global", "refit": False, "alignment": {"preparation": "centred"}},
    "global, hard, refit": {
        "residual": "global", "refit": True, "weights": (1.0, 1.0), "alignment": {"preparation": "centred"},
    },
}  # fmt: skip
#: What takes most of an hour on two cores.
LEFT_OUT = {("306 M", "global, hard, refit")}
#: Stages of the report: prepare (certificate, copies), statistics, transport problems, weights.
STAGES = ("prepare", "statistics", "solve", "build")
SEED_OF_IMAGES = 0


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for overhead.json and overhead.md.")],
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    shape: Annotated[list[str] | None, typer.Option(help="Only this size; may be repeated.")] = None,
    way: Annotated[str | None, typer.Option(hidden=True, help="Measure one fusion here, and print it.")] = None,
) -> None:
    """Measure what is missing, and write the page."""
    if way is not None:
        typer.echo(json.dumps(measured(SHAPES[(shape or [])[0]], WAYS[way], threads)))
        return
    output.mkdir(parents=True, exist_ok=True)
    store = Store(output / "overhead.json")
    torch.set_num_threads(threads)
    store.content |= {"command": "python -m benchmarks.paper.overhead -o results", "environment": environment()}
    for size in shape or SHAPES:
        for name in WAYS:
            if (size, name) not in LEFT_OUT and store.get("ViTs", size, name, 0) is None:
                figures = _in_a_process(size, name, threads)
                store.put("ViTs", size, name, 0, figures)
                typer.echo(f"{size} | {name}: {figures}")
    (output / "overhead.md").write_text(page(store), encoding="utf-8")


def measured(shape: tuple[int, int, int], options: dict[str, Any], threads: int) -> dict[str, Any]:
    """Seconds by stage, and the memory of the fusion above that of the loaded teachers, in bytes."""
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    # What is loaded at first use, and the memory that it takes, is not a fusion's.
    fuse_models(_teachers(32, 1, 2), 1.0, _images(2), FusionOptions(**options))
    teachers, batches = _teachers(*shape), _images(BATCH)
    loaded = peak_memory()
    begun = time.perf_counter()
    found = fuse_models(teachers, 1.0, batches, FusionOptions(**options))
    return {
        "parameters": teachers[0][1].num_parameters(),
        "seconds": time.perf_counter() - begun,
        "stages": {stage: found.report["seconds"].get(stage, 0.0) for stage in STAGES},
        "loaded": loaded,
        "above": peak_memory() - loaded,
    }


def _teachers(width: int, layers: int, heads: int) -> list[tuple[str, ViTForImageClassification]]:
    """Two ViTs of random weights."""
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
        image_size=224, patch_size=32,
    )  # fmt: skip
    config.num_labels = 1000
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        found.append((f"teacher {seed}", ViTForImageClassification(config).eval()))
    return found


def _images(batch: int) -> list[dict[str, torch.Tensor]]:
    """Batches of random pixels."""
    generator = torch.Generator().manual_seed(SEED_OF_IMAGES)
    return [{"pixel_values": torch.randn(batch, 3, 224, 224, generator=generator)} for _ in range(SAMPLES // BATCH)]


def slope(parameters: Sequence[float], values: Sequence[float]) -> float:
    """The exponent b of value ≈ a · parametersᵇ, by least squares on logarithms."""
    return float(np.polyfit(np.log(parameters), np.log(values), 1)[0])


def page(store: Store) -> str:
    """The tables: totals and slopes, then the stages of each way."""
    machine = store.content["environment"]
    lines = [
        "# What a fusion costs", "", f"`{store.content['command']}`", "",
        f"torch {machine['torch']}, transformers {machine['transformers']}, POT {machine['pot']}; {machine['cpu']}, "
        f"threads: {machine['threads']}. Two ViTs of random weights, images of 224 pixels in patches of 32, {SAMPLES} "
        f"calibration images. One run each, in a process of its own. Memory is the peak above what was held when the "
        f"teachers were loaded.",
        "", "Slopes are exponents of the number of parameters, fitted to all sizes and to the three largest.", "",
    ]  # fmt: skip
    cells = store.content["settings"]["ViTs"]["cells"]
    lines += _table("Seconds", cells, lambda found: found["seconds"], "{:.1f}")
    lines += _table("Memory, MB", cells, lambda found: found["above"] / 1e6, "{:.0f}")
    for stage in STAGES[1:]:
        lines += _table(f"Seconds: {stage}", cells, lambda found, stage=stage: found["stages"][stage], "{:.2f}")
    return "\n".join([*lines, *read("overhead")])


def _table(title: str, cells: dict[str, Any], value: Any, form: str) -> list[str]:
    sizes = [size for size in SHAPES if size in cells]
    lines = [
        f"## {title}",
        "",
        f"| | {' | '.join(sizes)} | slope | of the largest |",
        "|---|" + "--:|" * (len(sizes) + 2),
    ]
    for way in WAYS:
        known = {size: cells[size][way]["0"] for size in sizes if way in cells[size]}
        found = [(figures["parameters"], value(figures)) for figures in known.values()]
        slopes = [
            f"{slope(*zip(*part, strict=True)):.2f}" if len(part) > 1 and all(v > 0.005 for _, v in part) else ""
            for part in (found, found[-3:])
        ]
        shown = [form.format(value(known[size])) if size in known else "" for size in sizes]
        lines.append(f"| {way} | {' | '.join(shown)} | {' | '.join(slopes)} |")
    return [*lines, ""]


def _in_a_process(size: str, way: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.paper.overhead", "-o", ".", "--threads", str(threads)]
    done = subprocess.run([*command, "--shape", size, "--way", way], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{size}, {way} failed")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    typer.run(main)
