"""Models side by side without data: latency in processes of their own, multiply–accumulates and size."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from compressor.bench.backends import BACKENDS
from compressor.bench.latency import available_threads as all_threads
from compressor.bench.rows import Row, to_json
from compressor.bench.subprocesses import TimingJob, WorkerError, measure_isolated
from compressor.errors import UnsupportedError, UserError
from compressor.export.files import files_of
from compressor.export.formats import EXPORT_FORMATS
from compressor.export.parity_cases import MODEL
from compressor.export.write import write_formats
from compressor.models.bounds import read_config_values
from compressor.models.inputs import dummy_inputs, is_image_config
from compressor.models.load import load_teacher
from compressor.models.teacher import Teacher
from compressor.pipeline.environment import environment
from compressor.pipeline.evaluation import EvaluatedModel, short_names, stored_bytes
from compressor.pipeline.stages import OnStage, StageReporter
from compressor.pipeline.teachers import check_device
from compressor.pipeline.timing import sample_length
from compressor.recipe import ExportOptions
from compressor.utils.files import disk_full_as_user_error

#: What is timed if nothing else is asked for.
DEFAULT_BACKENDS = ("torch", "onnx")
#: Samples that ranges are taken from for an int8 file that is only timed: they change no time.
_RANGES = 8


@dataclass(frozen=True)
class BenchSettings:
    """What is measured, and how.

    Attributes:
        batch_sizes: samples per call; each is measured.
        lengths: tokens of a text sample; each is measured, cut to the positions that all models hold.
        backends: names in `BACKENDS`.
        seconds: least measuring time per model, backend, batch size and length.
        threads: of every process; all cores that this one may use if omitted.
        device: of torch.
        warmups: calls before measuring, after the first.
    """

    batch_sizes: tuple[int, ...] = (32,)
    lengths: tuple[int, ...] = (128,)
    backends: tuple[str, ...] = DEFAULT_BACKENDS
    seconds: float = 10.0
    threads: int | None = None
    device: str = "cpu"
    warmups: int = 10


@dataclass(frozen=True)
class _Entrant:
    """A model to be timed: in torch its folder, in ONNX Runtime its files."""

    label: str
    model: Teacher | None
    files: dict[str, Path]
    config: Mapping[str, Any] | None

    def path(self, backend: str) -> str | None:
        """What a backend runs; None where there is nothing for it."""
        if BACKENDS.get(backend).format is not None:
            return str(self.files[backend]) if backend in self.files else None
        return None if self.model is None else self.model.source.location


def bench_models(names: Sequence[str], settings: BenchSettings, *, progress: OnStage | None = None) -> dict[str, Any]:
    """Latency of models on random inputs, each in a process of its own, in turns.

    Args:
        names: folders, built-in names, Hub ids, or ONNX files, whoever made them.
        settings: what is measured.
        progress: told of every stage.

    Returns:
        JSON-ready: results, one for each model, backend, batch size and length (see
        `compressor.bench.subprocesses.Measurement`), table as in a report with the first batch size and length,
        settings, notes on what was left out, environment, seconds.

    Raises:
        UserError: a model cannot be loaded, a backend is unknown, or models read different kinds of input.
    """
    stages = StageReporter(progress)
    check_device(settings.device)
    for backend in settings.backends:
        BACKENDS.get(backend)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        entrants = _enter(names, settings, Path(scratch), stages, notes)
        models = [entrant.model for entrant in entrants if entrant.model is not None]
        lengths = _lengths(models, settings.lengths) if models or _any_text(entrants) else (None,)
        used = settings.threads or all_threads()
        results: list[dict[str, Any]] = []
        shapes = [(batch, length) for batch in settings.batch_sizes for length in lengths]
        for batch, length in shapes:
            results += _time(entrants, batch, length, used, settings, stages, notes)
    if not results:
        raise UserError(f"nothing could be timed: {'; '.join(notes)}")
    return {
        "table": to_json(_rows(models, [e.label for e in entrants if e.model is not None], results, shapes[0])),
        "results": results,
        "settings": {**asdict(settings), "lengths": list(lengths), "threads": used},
        "notes": list(dict.fromkeys(notes)),
        "environment": {**environment(), "threads": used},
        "seconds": stages.report(),
    }


def _enter(
    names: Sequence[str], settings: BenchSettings, scratch: Path, stages: StageReporter, notes: list[str]
) -> list[_Entrant]:
    """Load every model and find, or make, the files that are to be timed."""
    found = []
    labels = short_names(names)
    with stages("load", "loading") as tell:
        loaded = [None if _is_onnx(name) else load_teacher(name, progress=tell) for name in names]
        _check_inputs([model for model in loaded if model is not None])
    for index, (name, label, model) in enumerate(zip(names, labels, loaded, strict=True)):
        if model is None:
            if "onnx" not in settings.backends:
                raise UserError(f"{name} is an ONNX file, which only the backend onnx times")
            own = Path(name).expanduser()
            found.append(_Entrant(label, None, {"onnx": own}, _config_beside(own)))
            continue
        files = {}
        for backend in settings.backends:
            if BACKENDS.get(backend).format is None:
                continue
            with stages("export", f"exporting {label} ({backend})"), disk_full_as_user_error(f"to {scratch}"):
                path = _file(model, backend, scratch / str(index), label, notes)
            if path is not None:
                files[backend] = path
        found.append(_Entrant(label, model, files, model.config.to_dict()))
    return found


def _file(model: Teacher, backend: str, scratch: Path, label: str, notes: list[str]) -> Path | None:
    """The file of a backend: one of the model's own folder, else a temporary export that is only timed."""
    asked = BACKENDS.get(backend)
    assert asked.format is not None
    made = EXPORT_FORMATS.get(asked.format)
    try:
        kind = next((kind for kind in files_of(model.model, cache=False) if kind.name == MODEL), None)
        if kind is None:
            raise UnsupportedError(f"{type(model.model).__name__} has no ONNX file of the whole model")
        folder = Path(model.source.location)
        for own in (made.path(folder, kind), *(folder / "onnx" / name for name in asked.files)):
            if own.is_file():
                return own
        # Whether it agrees with torch is not asked of a file that is only timed.
        options = ExportOptions(cache=False, tolerance=1.0, formats=(asked.format,))
        calibration = [dummy_inputs(model.config, _RANGES)]
        written = write_formats(
            [asked.format], model.model, scratch, options, calibration=calibration, batch_sizes=(1,)
        )
        return written[asked.format].report.path
    except UnsupportedError as error:
        notes.append(f"{label} was not timed in {asked.meaning}: {error}")
        return None


def _time(
    entrants: Sequence[_Entrant],
    batch: int,
    length: int | None,
    threads: int,
    settings: BenchSettings,
    stages: StageReporter,
    notes: list[str],
) -> list[dict[str, Any]]:
    """Time everything at one batch size and length."""
    jobs: list[tuple[_Entrant, str, TimingJob]] = []
    for entrant in entrants:
        for backend in settings.backends:
            if (path := entrant.path(backend)) is not None:
                engine = BACKENDS.get(backend).engine
                job = TimingJob(engine, path, batch, length or 1, threads, settings.device, _feeding(entrant.config))
                jobs.append((entrant, backend, job))
    shape = f"batches of {batch}" + ("" if length is None else f" × {length} tokens")
    with stages("latency", f"timing {shape} in turns") as tell:
        measured = measure_isolated(
            [job for _, _, job in jobs],
            seconds=settings.seconds,
            warmups=settings.warmups,
            on_progress=lambda share: tell(share, f"timing {shape} in turns"),
        )
    results = []
    for (entrant, backend, job), found in zip(jobs, measured, strict=True):
        if isinstance(found, WorkerError):
            notes.append(f"{entrant.label} was not timed in {BACKENDS.get(backend).meaning}, {shape}: {found}")
            continue
        results.append(
            {
                "model": entrant.label,
                "backend": backend,
                "batch_size": batch,
                "length": length,
                "bytes": _bytes(entrant, job),
                **asdict(found),
            }
        )
    return results


def _feeding(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What of a config the inputs of an ONNX file depend on."""
    names = ("vocab_size", "image_size", "num_channels")
    return None if config is None else {name: config[name] for name in names if config.get(name) is not None}


def _bytes(entrant: _Entrant, job: TimingJob) -> int:
    path = Path(job.path)
    if job.engine == "onnx":
        return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
    assert entrant.model is not None
    return stored_bytes(entrant.model)


def _rows(
    models: Sequence[Teacher],
    labels: Sequence[str],
    results: Sequence[Mapping[str, Any]],
    shape: tuple[int, int | None],
) -> list[Row]:
    """The table: what every model is, and its latency at one batch size and length."""
    batch, length = shape
    times = {
        (row["model"], row["backend"]): row for row in results if (row["batch_size"], row["length"]) == (batch, length)
    }
    rows = []
    for label, model in zip(labels, models, strict=True):
        row = EvaluatedModel(label, (model.model,), stored_bytes(model), None).row(None, length or 128)
        latency: dict[str, float | None] = {}
        for key, backend in (("torch", "torch"), ("ort", "onnx")):
            found = times.get((label, backend), {})
            latency |= {f"{key}_p50_ms": found.get("p50_ms"), f"{key}_p95_ms": found.get("p95_ms")}
        rows.append(Row(**{**asdict(row), **latency}))
    return rows


def _lengths(models: Sequence[Teacher], asked: Sequence[int]) -> tuple[int | None, ...]:
    """The lengths that are measured, each once; (None,) if no model reads text."""
    found: list[int | None] = []
    for length in asked:
        held = [sample_length(model.config, length) for model in models]
        if models and None in held:
            return (None,)
        found.append(min((one for one in held if one is not None), default=length))
    return tuple(dict.fromkeys(found))


def _any_text(entrants: Sequence[_Entrant]) -> bool:
    """Whether any of the ONNX files reads tokens."""
    graphs = [onnx.load(path, load_external_data=False).graph for one in entrants for path in one.files.values()]
    return any(entry.name.endswith("input_ids") for graph in graphs for entry in graph.input)


def _is_onnx(name: str) -> bool:
    path = Path(name).expanduser()
    if path.suffix != ".onnx":
        return False
    if not path.is_file():
        raise UserError(f"no ONNX file at {path}")
    return True


def _config_beside(path: Path) -> dict[str, Any] | None:
    """The config.json beside an ONNX file or above its folder."""
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
