"""Latency, multiply–accumulates and size of models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from compressor.bench.backends import BACKENDS
from compressor.bench.compare import with_ratios
from compressor.bench.rows import Row, to_json
from compressor.bench.subprocesses import TimingJob, WorkerError, measure_isolated
from compressor.errors import UserError
from compressor.models.teacher import Teacher
from compressor.pipeline.contenders import Contender, any_text, load_contenders
from compressor.pipeline.environment import environment
from compressor.pipeline.scores.evaluation import EvaluatedModel, stored_bytes
from compressor.pipeline.stages import OnStage, StageReporter
from compressor.pipeline.teachers import check_device
from compressor.pipeline.timing import sample_length

#: Backends that are timed by default.
DEFAULT_BACKENDS = ("torch", "onnx")


@dataclass(frozen=True)
class BenchSettings:
    """Settings of a measurement.

    Attributes:
        batch_sizes: samples per call.
        lengths: tokens, at most the models' limit.
        backends: of `BACKENDS`.
        seconds: least time per measurement.
        threads: per process; None for torch's.
        warmups: after the first call.
    """

    batch_sizes: tuple[int, ...] = (32,)
    lengths: tuple[int, ...] = (128,)
    backends: tuple[str, ...] = DEFAULT_BACKENDS
    seconds: float = 10.0
    threads: int | None = None
    device: str = "cpu"
    warmups: int = 10


def bench_models(names: Sequence[str], settings: BenchSettings, *, progress: OnStage | None = None) -> dict[str, Any]:
    """Latency of models on random inputs, each in its own process, in turns.

    Args:
        names: folders, built-in names, Hub ids, or any ONNX files.

    Returns:
        JSON-ready: results per model, backend, batch size and length (`compressor.bench.subprocesses.Measurement`),
        table of the first batch size and length, settings, notes on models left out, environment, seconds.

    Raises:
        UserError: an unusable model or backend, or different kinds of input.
    """
    stages = StageReporter(progress)
    check_device(settings.device)
    for backend in settings.backends:
        BACKENDS.get(backend)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        contenders = load_contenders(names, settings.backends, Path(scratch), stages, notes)
        models = [contender.model for contender in contenders if contender.model is not None]
        lengths = _lengths(models, settings.lengths) if models or any_text(contenders) else (None,)
        threads = settings.threads or torch.get_num_threads()
        results: list[dict[str, Any]] = []
        shapes = [(batch, length) for batch in settings.batch_sizes for length in lengths]
        for batch, length in shapes:
            results += _time(contenders, batch, length, threads, settings, stages, notes)
    if not results:
        raise UserError(f"nothing could be timed: {'; '.join(notes)}")
    return {
        "table": to_json(_rows(contenders, results, shapes[0])),
        "results": with_ratios(results),
        "settings": {**asdict(settings), "lengths": list(lengths), "threads": threads},
        "notes": list(dict.fromkeys(notes)),
        "environment": {**environment(), "threads": threads},
        "seconds": stages.report(),
    }


def _time(
    contenders: Sequence[Contender],
    batch: int,
    length: int | None,
    threads: int,
    settings: BenchSettings,
    stages: StageReporter,
    notes: list[str],
) -> list[dict[str, Any]]:
    """Time everything at one batch size and length."""
    jobs: list[tuple[Contender, str, TimingJob]] = []
    for contender in contenders:
        for backend in settings.backends:
            if (path := contender.path(backend)) is not None:
                engine = BACKENDS.get(backend).engine
                job = TimingJob(
                    engine, path, batch, length or 1, threads, settings.device, _input_sizes(contender.config)
                )
                jobs.append((contender, backend, job))
    shape = f"batches of {batch}" + ("" if length is None else f" × {length} tokens")
    with stages("latency", f"timing {shape} in turns") as progress:
        measured = measure_isolated(
            [job for _, _, job in jobs],
            seconds=settings.seconds,
            warmups=settings.warmups,
            on_progress=lambda fraction: progress(fraction, f"timing {shape} in turns"),
        )
    results = []
    for (contender, backend, job), measurement in zip(jobs, measured, strict=True):
        if isinstance(measurement, WorkerError):
            notes.append(f"{contender.label} was not timed in {BACKENDS.get(backend).meaning}, {shape}: {measurement}")
            continue
        results.append(
            {
                "model": contender.label,
                "backend": backend,
                "batch_size": batch,
                "length": length,
                "bytes": _bytes(contender, job),
                **asdict(measurement),
            }
        )
    return results


def _input_sizes(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Config values that shape an ONNX file's inputs."""
    names = ("vocab_size", "image_size", "num_channels")
    return None if config is None else {name: config[name] for name in names if config.get(name) is not None}


def _bytes(contender: Contender, job: TimingJob) -> int:
    path = Path(job.path)
    if job.engine.startswith("onnx"):
        return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
    assert contender.model is not None
    return stored_bytes(contender.model)


def _rows(
    contenders: Sequence[Contender], results: Sequence[Mapping[str, Any]], shape: tuple[int, int | None]
) -> list[Row]:
    """Sizes of every model, and one latency."""
    times = {(row["model"], row["backend"]): row for row in results if (row["batch_size"], row["length"]) == shape}
    rows = []
    for label, model in ((contender.label, contender.model) for contender in contenders):
        if model is None:
            continue
        row = EvaluatedModel(label, (model.model,), stored_bytes(model), None).row(None, shape[1] or 128)
        latency: dict[str, float | None] = {}
        for key, backend in (("torch", "torch"), ("ort", "onnx")):
            measured = times.get((label, backend), {})
            latency |= {f"{key}_p50_ms": measured.get("p50_ms"), f"{key}_p95_ms": measured.get("p95_ms")}
        rows.append(Row(**{**asdict(row), **latency}))
    return rows


def _lengths(models: Sequence[Teacher], lengths: Sequence[int]) -> tuple[int | None, ...]:
    """Distinct lengths; (None,) without text models."""
    cut: list[int | None] = []
    for length in lengths:
        longest = [sample_length(model.config, length) for model in models]
        if models and None in longest:
            return (None,)
        cut.append(min((tokens for tokens in longest if tokens is not None), default=length))
    return tuple(dict.fromkeys(cut))
