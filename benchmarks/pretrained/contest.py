"""The cells of one part of the table: students, and the same after equal distillation."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import compressor
from benchmarks.common.results import Store
from benchmarks.pretrained.sentences import Sentences
from benchmarks.pretrained.settings import BATCH, LEARNING_RATE, Contender, Part
from compressor.layer_maps import LayerMap
from compressor.models.configs.reading import model_class
from compressor.models.headless.configured import as_configured


def column(samples: int, steps: int) -> str:
    """The name of a cell's column in the store."""
    return f"{samples} sentences, {steps} steps"


def hold(
    name: str,
    part: Part,
    sentences: Sentences,
    store: Store,
    *,
    seeds: int,
    samples: Sequence[int],
    steps: Sequence[int],
    only: Sequence[str] = (),
) -> Iterator[str]:
    """Measure what the store lacks of a part; a line for every figure."""
    for seed in range(seeds):
        for row, contender in part.contenders.items():
            for count in samples if not only or row in only else ():
                missing = [n for n in steps if store.get(name, row, column(count, n), seed) is None]
                if not missing:
                    continue
                student, maps, made = _student(contender, sentences, count, seed)
                for n in missing:
                    started, model = time.process_time(), copy.deepcopy(student)
                    if n:
                        _distil(model, contender, maps, sentences, n, seed)
                    taught = time.process_time() - started
                    figures = {
                        **sentences.scores(model),
                        **_sizes(model),
                        "fusion_seconds": round(made, 1),
                        "distillation_seconds": round(taught, 1) if n else 0.0,
                    }
                    store.put(name, row, column(count, n), seed, figures)
                    yield f"{name} | {row} | {column(count, n)} | seed {seed}: {figures}"


def _student(
    contender: Contender, sentences: Sentences, samples: int, seed: int
) -> tuple[PreTrainedModel, Sequence[LayerMap], float]:
    """A contender's student before any distillation, the maps of its streams, and CPU seconds."""
    started = time.process_time()
    options: dict[str, Any] = {"width": 0.5, **contender.options}
    result = compressor.fuse(
        [sentences.teacher.name], calibration=sentences.drawn(seed)[:samples], samples=samples, seed=seed, **options
    )
    student, maps = result.model, result.passages
    if contender.random:
        torch.manual_seed(seed)
        student, maps = as_configured(model_class(student.config)(student.config)).eval(), ()
    return student, maps, time.process_time() - started


def _distil(
    student: PreTrainedModel,
    contender: Contender,
    maps: Sequence[LayerMap],
    sentences: Sentences,
    steps: int,
    seed: int,
) -> None:
    """Train on the similarities of training sentences within a batch, in place."""
    with tempfile.TemporaryDirectory(prefix="pretrained-") as folder:
        compressor.distill(
            student, [sentences.teacher.name], sentences.training, work_dir=Path(folder) / "run", seed=seed,
            steps=steps, batch_size=BATCH, learning_rate=LEARNING_RATE, checkpoint_every=steps,
            passages=maps if contender.losses else (), losses=dict(contender.losses),
        )  # fmt: skip


def _sizes(model: PreTrainedModel) -> dict[str, Any]:
    """Parameters in millions, of all and of the layers, and what the config says of the layers."""
    config = model.config
    layers = sum(p.numel() for name, p in model.named_parameters() if name.startswith("encoder."))
    shape = f"{config.hidden_size} wide, {config.num_attention_heads} heads, {config.intermediate_size} units"
    return {
        "parameters": round(model.num_parameters() / 1e6, 3), "layers": round(layers / 1e6, 3),
        "shape": f"{shape}, {config.num_hidden_layers} layers",
    }  # fmt: skip
