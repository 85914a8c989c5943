"""How much of the saved arithmetic becomes saved time.

    python benchmarks/cost/speedup.py TEACHER STUDENT        two folders
    python benchmarks/cost/speedup.py --random-vit-b         a random ViT-B/16 and its half, fused by weights alone

Prints one JSON object: MACs, p50 in ONNX Runtime (contenders interleaved), their ratios, machine and versions.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from compressor.bench.latency import available_threads, measure_latency, onnx_runner
from compressor.bench.size import count_macs
from compressor.export.onnx import write_onnx
from compressor.fusion import fuse_models
from compressor.models.folder.weights import load_model
from compressor.models.inputs import dummy_inputs
from compressor.pipeline.environment import environment


def main(
    teacher: Annotated[Path | None, typer.Argument(help="Folder of the wide model.")] = None,
    student: Annotated[Path | None, typer.Argument(help="Folder of the narrow model.")] = None,
    random_vit_b: Annotated[bool, typer.Option(help="Use a ViT-B/16 of random weights and its half.")] = False,
    batch_size: int = 32,
    seconds: float = 10.0,
    warmups: int = 10,
    thread_count: Annotated[int | None, typer.Option("--threads")] = None,
) -> None:
    """Measure one teacher against one student."""
    if random_vit_b:
        models = vit_b_and_its_half()
    elif teacher is not None and student is not None:
        models = {"teacher": load_model(teacher), "student": load_model(student)}
    else:
        raise typer.BadParameter("name a teacher's and a student's folder, or --random-vit-b")
    used = thread_count or available_threads()
    macs = {name: count_macs(model) for name, model in models.items()}
    with tempfile.TemporaryDirectory() as scratch:
        runners = {}
        for name, model in models.items():
            exported = write_onnx(model, Path(scratch, name), batch_sizes=(1, 2))
            runners[name] = onnx_runner(exported.path, dummy_inputs(model.config, batch_size), used)
        found = measure_latency(runners, seconds=seconds, warmups=warmups)
    saved, faster = macs["teacher"] / macs["student"], found["teacher"].p50_ms / found["student"].p50_ms
    result = {
        "batch_size": batch_size,
        "threads": used,
        "gmacs": {name: count / 1e9 for name, count in macs.items()},
        "ort_p50_ms": {name: latency.p50_ms for name, latency in found.items()},
        "iterations": {name: latency.iterations for name, latency in found.items()},
        "macs_ratio": saved,
        "speed_up": faster,
        "share": faster / saved,
        "environment": environment(),
    }
    typer.echo(json.dumps(result, indent=2))


def vit_b_and_its_half() -> dict[str, PreTrainedModel]:
    """Weights do not matter for speed; the half is made by the product's own path without data."""
    torch.manual_seed(0)
    config = ViTConfig()
    config.num_labels = 1000
    config.architectures = ["ViTForImageClassification"]
    teacher = ViTForImageClassification(config).eval()
    return {"teacher": teacher, "student": fuse_models([("vit-b", teacher)], 0.5, None).model}


if __name__ == "__main__":
    typer.run(main)
