"""Latency, multiply–accumulates and size of models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from compressor.bench.backends import BACKENDS
from compressor.bench.compare import with_ratios
from compressor.bench.rows import Row, to_json
from compressor.bench.subprocesses import TimingJob, WorkerError, measure_isolated
from compressor.errors import UnsupportedError, UserError
from compressor.export.file_kinds import files_of
from compressor.export.formats import EXPORT_FORMATS
from compressor.export.parity_cases import MODEL
from compressor.export.write import write_formats
from compressor.models.bounds import read_config_values
from compressor.models.inputs import dummy_inputs
from compressor.models.load import load_teacher
from compressor.models.modalities import is_image_config
from compressor.models.teacher import Teacher
from compressor.pipeline.environment import environment
from compressor.pipeline.evaluation import EvaluatedModel, short_names, stored_bytes
from compressor.pipeline.stages import OnStage, StageReporter
from compressor.pipeline.teachers import check_device
from compressor.pipeline.timing import sample_length
from compressor.recipe import ExportOptions
from compressor.utils.files import disk_full_as_user_error

#: Backends that are timed by default.
DEFAULT_BACKENDS = ("torch", "onnx")
#: Calibration samples of an int8 file that is only timed: its ranges do not matter.
_CALIBRATION_SAMPLES = 8


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


@dataclass(frozen=True)
class _Contender:
    """A model to time: folder in torch, files in ONNX Runtime."""

    label: str
    model: Teacher | None
    files: dict[str, Path]
    config: Mapping[str, Any] | None

    def path(self, backend: str) -> str | None:
        """A backend's folder or file, or None."""
        if BACKENDS.get(backend).format is not None:
            return str(self.files[backend]) if backend in self.files else None
        return None if self.model is None else self.model.source.location


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
        contenders = _load(names, settings, Path(scratch), stages, notes)
        models = [contender.model for contender in contenders if contender.model is not None]
        lengths = _lengths(models, settings.lengths) if models or _any_text(contenders) else (None,)
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


def _load(
    names: Sequence[str], settings: BenchSettings, scratch: Path, stages: StageReporter, notes: list[str]
) -> list[_Contender]:
    """Load every model, and find or export its files."""
    contenders = []
    labels = short_names(names)
    with stages("load", "loading") as progress:
        loaded = [None if _is_onnx(name) else load_teacher(name, progress=progress) for name in names]
        _check_inputs([model for model in loaded if model is not None])
    for index, (name, label, model) in enumerate(zip(names, labels, loaded, strict=True)):
        if model is None:
            if "onnx" not in settings.backends:
                raise UserError(f"{name} is an ONNX file, which only the backend onnx times")
            file = Path(name).expanduser()
            contenders.append(_Contender(label, None, {"onnx": file}, _config_near(file)))
            continue
        files: dict[str, Path] = {}
        for backend in settings.backends:
            if BACKENDS.get(backend).format is None:
                continue
            if (path := _same_file(backend, files)) is not None:
                files[backend] = path
                continue
            with stages("export", f"exporting {label} ({backend})"), disk_full_as_user_error(f"to {scratch}"):
                path = _file(model, backend, scratch / str(index), label, notes)
            if path is not None:
                files[backend] = path
        contenders.append(_Contender(label, model, files, model.config.to_dict()))
    return contenders


def _same_file(backend: str, files: Mapping[str, Path]) -> Path | None:
    """The file of another backend that runs the same format."""
    engine = BACKENDS.get(backend)
    return next((path for name, path in files.items() if BACKENDS.get(name).format == engine.format), None)


def _file(model: Teacher, backend: str, scratch: Path, label: str, notes: list[str]) -> Path | None:
    """A backend's file: the folder's, else a temporary export."""
    engine = BACKENDS.get(backend)
    assert engine.format is not None
    export_format = EXPORT_FORMATS.get(engine.format)
    try:
        kind = next((kind for kind in files_of(model.model) if kind.name == MODEL), None)
        if kind is None:
            raise UnsupportedError(f"{type(model.model).__name__} has no ONNX file of the whole model")
        folder = Path(model.source.location)
        for file in (export_format.path(folder, kind), *(folder / "onnx" / name for name in engine.files)):
            if file.is_file():
                return file
        # A file that is only timed need not agree with torch.
        options = ExportOptions(tolerance=1.0, formats=(engine.format,))
        calibration = [dummy_inputs(model.config, _CALIBRATION_SAMPLES)]
        written = write_formats(
            [engine.format], model.model, scratch, options, calibration=calibration, batch_sizes=(1,)
        )
        return written[engine.format].report.path
    except UnsupportedError as error:
        notes.append(f"{label} was not timed in {engine.meaning}: {error}")
        return None


def _time(
    contenders: Sequence[_Contender],
    batch: int,
    length: int | None,
    threads: int,
    settings: BenchSettings,
    stages: StageReporter,
    notes: list[str],
) -> list[dict[str, Any]]:
    """Time everything at one batch size and length."""
    jobs: list[tuple[_Contender, str, TimingJob]] = []
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


def _bytes(contender: _Contender, job: TimingJob) -> int:
    path = Path(job.path)
    if job.engine.startswith("onnx"):
        return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
    assert contender.model is not None
    return stored_bytes(contender.model)


def _rows(
    contenders: Sequence[_Contender], results: Sequence[Mapping[str, Any]], shape: tuple[int, int | None]
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


def _any_text(contenders: Sequence[_Contender]) -> bool:
    """Whether any ONNX file reads tokens."""
    files = [path for contender in contenders for path in contender.files.values()]
    graphs = [onnx.load(path, load_external_data=False).graph for path in files]
    return any(entry.name.endswith("input_ids") for graph in graphs for entry in graph.input)


def _is_onnx(name: str) -> bool:
    path = Path(name).expanduser()
    if path.suffix != ".onnx":
        return False
    if not path.is_file():
        raise UserError(f"no ONNX file at {path}")
    return True


def _config_near(path: Path) -> dict[str, Any] | None:
    """The config.json next to an ONNX file, or one folder above."""
    for folder in (path.parent, path.parent.parent):
        try:
            return dict(read_config_values(folder / "config.json"))
        except (OSError, ValueError):
            continue
    return None


def _check_inputs(models: Sequence[Teacher]) -> None:
    if not models:
        return
    first = models[0]
    sizes = {name: tuple(value.shape) for name, value in dummy_inputs(first.config, 1).items()}
    for model in models[1:]:
        if is_image_config(model.config) != is_image_config(first.config):
            raise UserError(f"{first.name} and {model.name} do not read the same kind of input: time them apart")
        other = {name: tuple(value.shape) for name, value in dummy_inputs(model.config, 1).items()}
        if other != sizes:
            raise UserError(f"{first.name} reads {sizes} and {model.name} reads {other}: time them apart")
