"""The models that a bench times: what was named, loaded, with a file for every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from compressor.bench.backends import BACKENDS
from compressor.errors import UnsupportedError, UserError
from compressor.export.file_kinds import files_of
from compressor.export.formats import EXPORT_FORMATS
from compressor.export.parity_cases import MODEL
from compressor.export.write import write_formats
from compressor.models.configs.bounds import read_config_values
from compressor.models.inputs import dummy_inputs
from compressor.models.load import load_teacher
from compressor.models.modalities import is_image_config
from compressor.models.teacher import Teacher
from compressor.pipeline.scores.evaluation import short_names
from compressor.pipeline.stages import StageReporter
from compressor.recipe import ExportOptions
from compressor.utils.files import disk_full_as_user_error

#: Calibration samples of an int8 file that is only timed: its ranges do not matter.
_CALIBRATION_SAMPLES = 8


@dataclass(frozen=True)
class Contender:
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


def load_contenders(
    names: Sequence[str], backends: Sequence[str], scratch: Path, stages: StageReporter, notes: list[str]
) -> list[Contender]:
    """Load every model, and find or export its files."""
    contenders = []
    labels = short_names(names)
    with stages("load", "loading") as progress:
        loaded = [None if _is_onnx(name) else load_teacher(name, progress=progress) for name in names]
        _check_inputs([model for model in loaded if model is not None])
    for index, (name, label, model) in enumerate(zip(names, labels, loaded, strict=True)):
        if model is None:
            if "onnx" not in backends:
                raise UserError(f"{name} is an ONNX file, which only the backend onnx times")
            file = Path(name).expanduser()
            contenders.append(Contender(label, None, {"onnx": file}, _config_near(file)))
            continue
        files: dict[str, Path] = {}
        for backend in backends:
            if BACKENDS.get(backend).format is None:
                continue
            if (path := _same_file(backend, files)) is not None:
                files[backend] = path
                continue
            with stages("export", f"exporting {label} ({backend})"), disk_full_as_user_error(f"to {scratch}"):
                path = _file(model, backend, scratch / str(index), label, notes)
            if path is not None:
                files[backend] = path
        contenders.append(Contender(label, model, files, model.config.to_dict()))
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


def any_text(contenders: Sequence[Contender]) -> bool:
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
