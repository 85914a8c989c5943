"""A model in several formats: written, compared with torch, and only then put where they belong."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.export.files import NAMES, FileKind, files_of
from compressor.export.formats import EXPORT_FORMATS, FLOAT, FormatSource, check_formats
from compressor.export.onnx import EXPORT, ExportReport, FileReport, opset_of, plain, remove_empty, write_onnx
from compressor.export.parity import compare_outputs
from compressor.export.parity_cases import MODEL, Files
from compressor.export.tracing import silence
from compressor.recipe import ExportOptions
from compressor.utils.logging import quiet_transformers
from compressor.utils.scratch import scratch


@dataclass(frozen=True)
class WrittenFormats:
    """A format that was written.

    Attributes:
        report: of its files and how far they are from torch.
        files: the same, open, by the names of their kinds.
    """

    report: ExportReport
    files: Files


def write_formats(
    names: Sequence[str],
    model: PreTrainedModel,
    folder: str | Path,
    options: ExportOptions,
    *,
    calibration: Sequence[Mapping[str, Tensor]] = (),
    processor: Any | None = None,
    batch_sizes: Sequence[int] = (1, 2, 5),
    seed: int = 0,
    left_out: Callable[[str, UnsupportedError], None] | None = None,
) -> dict[str, WrittenFormats]:
    """Write a model in several formats and compare each with torch; nothing is written unless all hold.

    The folder `onnx` also gets the model's config and its preprocessor or tokenizer, so that it is all that a
    deployment needs.

    Args:
        names: of formats.
        model: of a task that has files; it is left as it is.
        folder: where the model's other files are; made if it does not exist.
        options: whether there is a cache, the tolerance of exact formats, and how int8 is made.
        calibration: unlabelled batches of model inputs, for formats that need them.
        processor: the model's own.
        batch_sizes: see `check_parity`, likewise `seed`.
        left_out: told of a format that the model cannot be written in; without it that is raised.

    Returns:
        {format: what was written}

    Raises:
        UserError: a format is unknown, or needs calibration samples and there are none.
        UnsupportedError: the model has no files, or a format cannot express it.
        ParityError: an exact format disagrees with torch.
    """
    check_formats(names, model.config, data=bool(calibration))
    folder, model = Path(folder), plain(model)
    training = model.training
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.callback(remove_empty, folder, made)
        stack.callback(model.train, training)
        stage = stack.enter_context(scratch(folder / EXPORT))
        model.eval()
        kinds = files_of(model, options.cache)
        source = FormatSource(model, stage / "floats" / "onnx", calibration, options)
        floats = _floats(names, source, batch_sizes, seed, left_out)
        written: dict[str, WrittenFormats] = {}
        for name in names:
            try:
                written[name] = _write(name, kinds, source, stage / "done", floats, batch_sizes, seed)
            except UnsupportedError as error:
                if left_out is None:
                    raise
                left_out(name, error)
        if any(EXPORT_FORMATS.get(name).folder == "onnx" for name in written):
            write_companions(stage / "done" / "onnx", model, processor)
        _publish(stage / "done", folder, anew=FLOAT in written)
    return {name: _moved(one, stage / "done", folder) for name, one in written.items()}


def _floats(
    names: Sequence[str],
    source: FormatSource,
    batch_sizes: Sequence[int],
    seed: int,
    left_out: Callable[[str, UnsupportedError], None] | None,
) -> ExportReport | UnsupportedError | None:
    """The float32 ONNX files that other formats are made from; why there are none; or None if nobody wants them."""
    if not any(EXPORT_FORMATS.get(name).from_float for name in names):
        return None
    options = source.options
    try:
        return write_onnx(
            source.model,
            source.floats.parent,
            cache=options.cache,
            tolerance=options.tolerance,
            batch_sizes=batch_sizes,
            seed=seed,
        )
    except UnsupportedError as error:
        if left_out is None:
            raise
        return error


def _write(
    name: str,
    kinds: Sequence[FileKind],
    source: FormatSource,
    folder: Path,
    floats: ExportReport | UnsupportedError | None,
    batch_sizes: Sequence[int],
    seed: int,
) -> WrittenFormats:
    """Write one format below `folder` and compare it with torch.

    Raises:
        UnsupportedError: it cannot express the model; nothing of it is left.
        ParityError: it is to be exact and is not.
    """
    made = EXPORT_FORMATS.get(name)
    if made.from_float and isinstance(floats, UnsupportedError):
        raise floats
    if made.whole:
        kinds = [kind for kind in kinds if kind.name == MODEL]
    if not kinds:
        raise UnsupportedError(f"{name} of {type(source.model).__name__} is not supported: it has no whole model")
    paths = {kind.name: made.path(folder, kind) for kind in kinds}
    seconds: dict[str, float] = {}
    try:
        for kind in kinds:
            path = paths[kind.name]
            path.parent.mkdir(parents=True, exist_ok=True)
            begin = time.perf_counter()
            made.write(kind, source, path)
            seconds[kind.name] = time.perf_counter() - begin
    except UnsupportedError:
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise
    files = {kind: made.open(path) for kind, path in paths.items()}
    if name == FLOAT and isinstance(floats, ExportReport):
        # They were compared when they were made, and are copies.
        parity = {file.path.name: file.parity for file in floats.files}
        seconds = {file.path.name: file.seconds for file in floats.files}
    else:
        tolerance = source.options.tolerance if made.exact else math.inf
        with silence():
            parity = compare_outputs(
                kinds, files, source.model, tolerance=tolerance, batch_sizes=batch_sizes, seed=seed
            )
    reports = [
        FileReport(
            path,
            sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*")),
            opset_of(path) if path.suffix == ".onnx" else None,
            tuple(files[kind].inputs),
            files[kind].outputs,
            seconds[kind],
            parity[kind],
        )
        for kind, path in paths.items()
    ]
    return WrittenFormats(ExportReport(tuple(reports)), files)


def write_companions(folder: Path, model: PreTrainedModel, processor: Any | None) -> None:
    """Write what a deployment needs beside the files: config, and preprocessor or tokenizer."""
    with quiet_transformers():
        model.config.save_pretrained(folder)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)


def _publish(stage: Path, folder: Path, *, anew: bool) -> None:
    """Move everything below `stage` into `folder`; weights go before the graphs that name them.

    Args:
        stage: what was written.
        folder: where to.
        anew: whether files of other formats, which may be of another model, go.
    """
    paths = [path for path in stage.rglob("*") if path.is_file()] if stage.exists() else []
    written = {path.relative_to(stage) for path in paths}
    for path in sorted(paths, key=lambda path: path.suffix == ".onnx"):
        target = folder / path.relative_to(stage)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
    if anew:
        for old in {part for name in NAMES for part in _files_named(name)} - written:
            (folder / old).unlink(missing_ok=True)


def _files_named(name: str) -> tuple[Path, ...]:
    """An ONNX file, its weights, and the program of the same graph."""
    return Path("onnx", name), Path("onnx", f"{name}.data"), Path("torch", name).with_suffix(".pt2")


def _moved(written: WrittenFormats, stage: Path, folder: Path) -> WrittenFormats:
    files = (replace(file, path=folder / file.path.relative_to(stage)) for file in written.report.files)
    return WrittenFormats(ExportReport(tuple(files)), written.files)
