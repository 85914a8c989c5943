"""Sounds of files, bytes and arrays as waveforms."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Audio, Dataset, List, Value
from datasets.table import InMemoryTable

from compressor.data.files.folders import SOUND_SUFFIXES
from compressor.data.split import column
from compressor.errors import UserError
from compressor.utils.logging import quiet_datasets, root_cause

#: Usual names of columns of sounds, and of their files.
_SOUNDS = ("audio", "sound", "speech", "recording", "wav", "waveform")
_PATHS = ("path", "file", "file_name", "filename", "audio_path", "audio_file", "filepath")
_BYTES_AND_PATH = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])


def find_sound(dataset: Dataset, where: str) -> str:
    """The column of sounds: the only Audio feature, or one whose name and content fit.

    Raises:
        UserError: missing or ambiguous.
    """
    found = [name for name, feature in dataset.features.items() if isinstance(feature, Audio)]
    for usual in (_SOUNDS, _PATHS):
        found = found or [name for name in dataset.column_names if name.lower() in usual and _fits(dataset, name)]
    if len(found) == 1:
        return found[0]
    several = (
        f"several columns of sounds, {' and '.join(found)}" if found else "no column of sounds (audio, path or file)"
    )
    raise UserError(f"{where} has {several}: name one of them audio; its columns are {', '.join(dataset.column_names)}")


def _fits(dataset: Dataset, name: str) -> bool:
    feature, first = dataset.features[name], None
    if isinstance(feature, dict):
        return {"bytes", "path"} <= feature.keys() or {"array", "sampling_rate"} <= feature.keys()
    if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
        first = next((path for path in dataset[:1][name] if path), "")
        return Path(first).suffix.lower() in SOUND_SUFFIXES
    return (
        isinstance(feature, List) and isinstance(feature.feature, Value) and feature.feature.dtype.startswith("float")
    )


def as_sounds(dataset: Dataset, name: str, base: Path | None, where: str) -> Dataset:
    """The column of sounds as what `waveform` reads; paths are relative to `base`.

    Raises:
        UserError: no sounds.
    """
    feature = dataset.features[name]
    try:
        with quiet_datasets():
            if isinstance(feature, Audio):
                return dataset.cast_column(name, Audio(decode=False))
            if isinstance(feature, Value):
                values = [{"bytes": None, "path": str((base or Path()) / path)} for path in column(dataset, name)]
                others = dataset.remove_columns(name)
                table = {other: others.with_format("arrow")[:][other] for other in others.column_names}
                return Dataset(InMemoryTable(pa.table({**table, name: pa.array(values, _BYTES_AND_PATH)})))
    except (datasets.exceptions.DatasetsError, pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(f"column '{name}' of {where} holds no sounds ({root_cause(error)})") from error
    return dataset


def waveform(stored: Any, rate: int, where: str) -> np.ndarray:
    """A sound as float32 [samples] in [-1, 1], of one channel, at so many samples a second.

    Args:
        stored: bytes or path, an array with its sampling rate, or numbers at `rate`.

    Raises:
        UserError: unreadable, or the library soundfile is missing.
    """
    if isinstance(stored, dict) and "array" in stored:
        return _resampled(np.asarray(stored["array"], np.float32), int(stored["sampling_rate"]), rate)
    if not isinstance(stored, dict):
        return np.asarray(stored, np.float32)
    try:
        import soundfile
    # Its C library may be missing too.
    except (ImportError, OSError) as error:
        raise UserError(f"files of sounds are read by soundfile: pip install 'compressor[audio]' ({error})") from None
    source = io.BytesIO(stored["bytes"]) if stored.get("bytes") else stored.get("path")
    try:
        values, given = soundfile.read(source, dtype="float32", always_2d=True)
    except (RuntimeError, TypeError, OSError, ValueError) as error:
        raise UserError(f"cannot read the sound of {where} ({stored.get('path')}): {root_cause(error)}") from None
    if not len(values):
        raise UserError(f"the sound of {where} ({stored.get('path')}) is empty")
    return _resampled(values.mean(1), given, rate)


def _resampled(values: np.ndarray, given: int, wanted: int) -> np.ndarray:
    if given == wanted:
        return values
    from scipy import signal

    common = math.gcd(given, wanted)
    return np.asarray(signal.resample_poly(values, wanted // common, given // common), np.float32)
