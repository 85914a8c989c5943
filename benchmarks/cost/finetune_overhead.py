"""What a finetune costs beside a plain loop that does the same forward and backward passes, measured in turns.

    python benchmarks/cost/finetune_overhead.py TEACHER_A TEACHER_B --data cifar10 --steps 10 --repeats 5

Every contender trains the same half-width student on the same images, read before the clock starts: the plain loop
(teachers without gradients, KL, backward, clipping, AdamW), `compressor.distill` as it comes, and with the teachers'
logits kept on disk (`cache_logits`, asked for before the clock starts).  Seconds are those of whole calls, so that
setting up and the last checkpoint count; medians over the repeats, one thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

import compressor
from compressor.data.batches import Samples
from compressor.data.sources import open_split
from compressor.ensemble.probabilities import ensemble_kl
from compressor.models.load import load_teacher
from compressor.recipe import DataOptions, FinetuneOptions

Images = list[dict[str, Tensor]]


def plain(student: PreTrainedModel, teachers: list[PreTrainedModel], images: Images, steps: int, batch: int) -> None:
    """The passes written out; warm-up and cosine cost nothing and are left out."""
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=0.01)
    student.requires_grad_(True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    for step in range(steps):
        rows = [order[(step * batch + k) % len(order)] for k in range(batch)]
        pixels = torch.stack([images[row]["pixel_values"] for row in rows])
        with torch.no_grad():
            targets = [teacher(pixel_values=pixels).logits for teacher in teachers]
        loss = ensemble_kl(student(pixel_values=pixels).logits, targets, [1.0] * len(targets), 2.0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()


def read(data: str, name: str, count: int) -> Images:
    """Training images as the teachers' preprocessor makes them."""
    teacher = load_teacher(name)
    options = DataOptions(source=data)
    split = open_split(options, "train", id2label=teacher.spec.labels, task=teacher.spec.task)
    samples = Samples(split.take(count, seed=0), teacher.processor, teacher.spec, labels=False, cache_bytes=0)
    return samples.__getitems__(range(len(samples)))


def measure(contenders: dict[str, Callable[[], None]], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every call, wall and of the processor, the contenders in turns."""
    found: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            found[name]["wall"].append(time.perf_counter() - wall)
            found[name]["cpu"].append(time.process_time() - cpu)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = read(given.data, given.teachers[0], given.steps * given.batch_size)
    teachers = [load_teacher(name).model for name in given.teachers]
    student = compressor.fuse(teachers, 0.5, [{"pixel_values": images[0]["pixel_values"][None]}] * 2, refit=False).model
    options = FinetuneOptions(steps=given.steps, batch_size=given.batch_size).model_dump(
        include={"steps", "batch_size"}
    )
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["COMPRESSOR_CACHE"] = scratch

        def ours(cache_logits: bool = False) -> None:
            compressor.distill(
                copy.deepcopy(student),
                teachers,
                images,
                work_dir=Path(scratch, "work"),
                cache_logits=cache_logits,
                **options,
            )

        contenders = {
            "plain": lambda: plain(copy.deepcopy(student), teachers, images, given.steps, given.batch_size),
            "distill": ours,
            "distill, logits kept": lambda: ours(cache_logits=True),
        }
        for call in contenders.values():
            # Imports, caches and the kept logits.
            call()
        found = measure(contenders, given.repeats)
    print(f"{given.steps} steps of {given.batch_size}, {given.repeats} repeats in turns, one thread")
    base = {key: statistics.median(found["plain"][key]) for key in ("wall", "cpu")}
    for name, seconds in found.items():
        parts = [
            f"{key} {statistics.median(values):6.2f} s (×{statistics.median(values) / base[key]:.2f}; "
            f"{min(values):.2f}–{max(values):.2f})"
            for key, values in seconds.items()
        ]
        print(f"{name:22s} " + "   ".join(parts))
    if given.output:
        about = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
        values = {"steps": given.steps, "batch_size": given.batch_size, "seconds": found, **about}
        given.output.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
