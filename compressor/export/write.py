"""Writing a model in several formats."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from compressor.errors import ParityError, UnsupportedError
from compressor.export.file_kinds import NAMES, FileKind, every_kind, files_of
from compressor.export.formats import EXPORT_FORMATS, FLOAT, ExportFormat, FormatSource, check_formats
from compressor.export.onnx import float32_on_cpu, write_onnx
from compressor.export.parity import ParityReport, compare_outputs
from compressor.export.parity_cases import Files
from compressor.export.reports import ExportReport, report_file
from compressor.export.staging import export_stage, onnx_files, publish
from compressor.export.tracing import silence
from compressor.models.configs.own_code import copy_code
from compressor.models.inherited.companions import Companions
from compressor.recipe import ExportOptions
from compressor.utils.logging import quiet_transformers

#: Called with the name of a format and the reason why the model cannot be written in it.
OnUnsupported = Callable[[str, UnsupportedError], None]


#: Keys of a config that training or saving changes, and that no exported file depends on.
_INCIDENTAL = {"use_cache", "transformers_version", "_name_or_path"}


@dataclass(frozen=True)
class WrittenFormats:
    """One written format; `files` are open, by kind."""

    report: ExportReport
    files: Files


@dataclass(frozen=True)
class _Comparison:
    """Inputs of the comparison with torch."""

    batch_sizes: Sequence[int]
    seed: int


def write_formats(
    names: Sequence[str],
    model: PreTrainedModel,
    folder: str | Path,
    options: ExportOptions,
    *,
    calibration: Sequence[Mapping[str, Tensor]] = (),
    companions: Companions | None = None,
    batch_sizes: Sequence[int] = (1, 2, 5),
    seed: int = 0,
    on_unsupported: OnUnsupported | None = None,
    left: Sequence[str] = (),
) -> dict[str, WrittenFormats]:
    """Write a model in several formats and compare each with torch; no file is written unless all pass.

    The folder `onnx` also gets config and preprocessor or tokenizer, for deployment.

    Args:
        calibration: batches of model inputs, for formats that need them.
        on_unsupported: called with a format that cannot express the model and the error; raised if omitted.
        left: formats whose files are of this model and stay.

    Returns:
        {format: its files}

    Raises:
        UserError: unknown format, or missing calibration samples.
        UnsupportedError: the model has no files, or a format cannot express it.
        ParityError: an exact format disagrees with torch.
    """
    check_formats(names, model.config, data=bool(calibration), opset=options.opset)
    folder, model = Path(folder), float32_on_cpu(model)
    comparison = _Comparison(batch_sizes, seed)
    written: dict[str, WrittenFormats] = {}
    with export_stage(model, folder) as stage:
        finished = stage / "done"
        files_of(model, options.cache)
        source = FormatSource(model, stage / "floats" / "onnx", calibration, options, seed)
        floats = _write_floats(names, source, comparison, raises=on_unsupported is None)
        for name in names:
            try:
                written[name] = _write_format(name, source, finished, floats, comparison)
            except UnsupportedError as error:
                if on_unsupported is None:
                    raise
                on_unsupported(name, error)
        if any(EXPORT_FORMATS.get(name).folder == "onnx" for name in written):
            write_companions(finished / "onnx", model, companions)
            _leave_existing(
                finished / "onnx", folder / "onnx", any(EXPORT_FORMATS.get(n).folder == "onnx" for n in left)
            )
        for place in {EXPORT_FORMATS.get(name).folder for name in written if EXPORT_FORMATS.get(name).is_model}:
            if companions is not None:
                companions.write(finished / place, model.config)
        # Files of other formats may be of another model.
        publish(finished, folder, stale=_files_but(left) if FLOAT in written else ())
    return {name: WrittenFormats(each.report.moved(finished, folder), each.files) for name, each in written.items()}


def write_companions(folder: Path, model: PreTrainedModel, companions: Companions | None) -> None:
    """Write configs, preprocessor or tokenizer, and what else goes along."""
    with quiet_transformers():
        model.config.save_pretrained(folder)
        copy_code(model.config, folder)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
    if companions is not None:
        companions.write(folder, model.config)


def _write_floats(
    names: Sequence[str], source: FormatSource, comparison: _Comparison, *, raises: bool
) -> ExportReport | UnsupportedError | None:
    """Write the float32 ONNX files that others need: report, error unless raised, or None if not needed."""
    if not any(EXPORT_FORMATS.get(name).from_float for name in names):
        return None
    options = source.options
    try:
        return write_onnx(
            source.model,
            source.floats.parent,
            cache=options.cache,
            tolerance=options.tolerance,
            batch_sizes=comparison.batch_sizes,
            seed=comparison.seed,
            opset=options.opset,
            parts=source.floats,
        )
    except UnsupportedError as error:
        if raises:
            raise
        return error


def _write_format(
    name: str,
    source: FormatSource,
    folder: Path,
    floats: ExportReport | UnsupportedError | None,
    comparison: _Comparison,
) -> WrittenFormats:
    """Write one format below `folder` and compare it with torch.

    Raises:
        UnsupportedError: it cannot express the model; its files are removed.
        ParityError: an exact format differs.
    """
    written_as = EXPORT_FORMATS.get(name)
    if written_as.from_float and isinstance(floats, UnsupportedError):
        raise floats
    kinds = written_as.kinds(source.model, source.options.cache)
    if not kinds:
        raise UnsupportedError(f"{name} of {type(source.model).__name__} is not supported: it has no whole model")
    paths = {kind.name: written_as.path(folder, kind) for kind in kinds}
    seconds = _write_files(written_as, kinds, source, paths)
    files = {kind: written_as.open(path) for kind, path in paths.items()}
    if name == FLOAT and isinstance(floats, ExportReport):
        # Copies of files that were compared when they were made.
        parity = {file.path.name: file.parity for file in floats.files}
        seconds = {file.path.name: file.seconds for file in floats.files}
    else:
        try:
            parity = _compare(written_as, kinds, files, source, comparison)
        except ParityError as error:
            if not written_as.is_model:
                raise
            shutil.rmtree(folder / written_as.folder)
            raise UnsupportedError(f"{name}: {error}; safetensors-bf16 has the range of float32") from error
    plans = source.half_plans if written_as.half else {}
    reports = tuple(
        report_file(path, files[kind].inputs, files[kind].outputs, seconds[kind], parity[kind], plans.get(kind))
        for kind, path in paths.items()
    )
    return WrittenFormats(ExportReport(reports), files)


def _write_files(
    written_as: ExportFormat, kinds: Sequence[FileKind], source: FormatSource, paths: Mapping[str, Path]
) -> dict[str, float]:
    """{kind: seconds}; removes all files on failure."""
    seconds: dict[str, float] = {}
    try:
        for kind in kinds:
            path = paths[kind.name]
            path.parent.mkdir(parents=True, exist_ok=True)
            start = time.perf_counter()
            written_as.write(kind, source, path)
            seconds[kind.name] = time.perf_counter() - start
    except UnsupportedError:
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise
    return seconds


def _compare(
    written_as: ExportFormat, kinds: Sequence[FileKind], files: Files, source: FormatSource, comparison: _Comparison
) -> dict[str, ParityReport]:
    tolerance = source.options.tolerance if written_as.exact else math.inf
    with silence():
        return compare_outputs(
            kinds,
            files,
            source.model,
            tolerance=tolerance,
            batch_sizes=comparison.batch_sizes,
            seed=comparison.seed,
        )


def is_same_companion(first: Path, second: Path) -> bool:
    """Whether two configs or files of a preprocessor say the same of a model."""
    if first.read_bytes() == second.read_bytes():
        return True
    try:
        values = [json.loads(path.read_text(encoding="utf-8")) for path in (first, second)]
    except ValueError:
        return False
    return all(isinstance(value, dict) for value in values) and _described(values[0]) == _described(values[1])


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _INCIDENTAL}


def _leave_existing(staged: Path, folder: Path, all_files: bool) -> None:
    """Drop staged companions that the folder has: all of them, or those that say the same."""
    for path in [path for path in staged.rglob("*") if path.is_file() and ".onnx" not in path.suffixes]:
        there = folder / path.relative_to(staged)
        if there.is_file() and (all_files or is_same_companion(path, there)):
            path.unlink()


def _files_but(left: Sequence[str]) -> Iterator[Path]:
    """Every file of any format but those `left`."""
    stay = {EXPORT_FORMATS.get(name).path(Path(), kind) for name in left for kind in every_kind()}
    stay |= {path.with_name(f"{path.name}.data") for path in stay}
    yield from (path for file in onnx_files() if (path := Path("onnx") / file) not in stay)
    yield from (path for name in NAMES if (path := Path("torch", name).with_suffix(".pt2")) not in stay)
    models = [EXPORT_FORMATS.get(name) for name in EXPORT_FORMATS.names()]
    yield from (
        path for one in models if one.is_model for kind in every_kind() if (path := one.path(Path(), kind)) not in stay
    )
