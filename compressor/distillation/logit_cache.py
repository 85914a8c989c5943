"""Teacher logits on disk, to run teachers once per sample."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from compressor.distillation.checks import TrainingSamples
from compressor.errors import UserError
from compressor.models.folder.save import fingerprint
from compressor.utils.input_files import MIB, read_json
from compressor.utils.out_of_memory import format_bytes

#: Key of the sample indices in a batch.
INDEX = "index"
_ROWS, _METADATA = "logits.f32", "about.json"
#: Most bytes of it that are read: a few a sample.
_METADATA_BYTES = 256 * MIB
#: Bytes left free on the disk.
_DISK_RESERVE = 1 << 28

#: Called with the share done, in [0, 1].
OnShare = Callable[[float], None]


class IndexedSamples(Dataset[dict[str, Tensor]]):
    """Samples with their index under `INDEX`."""

    def __init__(self, samples: TrainingSamples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several samples, for torch's DataLoader."""
        samples = read_samples(self._samples, indices)
        return [{**sample, INDEX: torch.tensor(index)} for sample, index in zip(samples, indices, strict=True)]


class CachedLogits:
    """One teacher's logits, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        metadata = read_json(folder / _METADATA, _METADATA_BYTES)
        self._rows = np.memmap(folder / _ROWS, np.float32, "r").reshape(-1, *np.atleast_1d(metadata["classes"]))
        self._starts = np.cumsum([0, *metadata["rows"]])

    def of(self, indices: Sequence[int]) -> Tensor:
        """Logits that count, concatenated, [P, C] float32, or [P, Q, C] of boxes."""
        parts = [self._rows[self._starts[index] : self._starts[index + 1]] for index in indices]
        return torch.from_numpy(np.concatenate(parts))


def cache_logits(
    teacher: PreTrainedModel,
    samples: TrainingSamples,
    predict: Callable[[Mapping[str, Tensor]], Tensor],
    folder: Path,
    *,
    batch_size: int,
    collate: Callable[..., Any],
    positions: Callable[[Mapping[str, Tensor]], Tensor | None],
    progress: OnShare | None = None,
) -> CachedLogits:
    """A teacher's logits of all samples; computed and written to `folder` if missing.

    Args:
        samples: identified by `key`, or else a hash.
        predict: from a batch to logits that count, [P, C] or [P, Q, C].
        positions: from a batch to which positions count [B, T]; None where every sample has as many.

    Raises:
        UserError: disk full, or folder not writable.
    """
    entry = folder / _entry_name(teacher, samples)
    if entry.exists():
        return CachedLogits(entry)
    partial = folder / f".{entry.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{entry.name}.lock").acquire()
    except OSError as error:
        raise UserError(f"cannot keep logits in {folder} ({error}): set COMPRESSOR_CACHE to another folder") from None
    with lock:
        # While this process waited, another may have written the entry, or died while writing.
        if not entry.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                batches: DataLoader[Any] = DataLoader(samples, batch_size, collate_fn=collate)  # type: ignore[arg-type]
                _write(partial, samples, predict, batches, positions, progress)
                partial.rename(entry)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return CachedLogits(entry)


def read_samples(samples: TrainingSamples, indices: Sequence[int]) -> list[dict[str, Tensor]]:
    """Several samples, by `__getitems__` if possible."""
    read = getattr(samples, "__getitems__", None)
    return read(indices) if read else [samples[index] for index in indices]


def _write(
    folder: Path,
    samples: TrainingSamples,
    predict: Callable[[Mapping[str, Tensor]], Tensor],
    batches: DataLoader[Any],
    positions: Callable[[Mapping[str, Tensor]], Tensor | None],
    progress: OnShare | None,
) -> None:
    row_counts: list[int] = []
    classes: int | list[int] = 0
    with open(folder / _ROWS, "wb") as file:
        for batch in batches:
            logits = predict(batch).float().cpu().contiguous().numpy()
            size = len(next(iter(batch.values())))
            counting = positions(batch)
            counts = [len(logits) // size] * size if counting is None else counting.sum(-1).tolist()
            if not row_counts:
                classes = logits.shape[1] if logits.ndim == 2 else list(logits.shape[1:])
                _check_disk(folder, logits.nbytes // len(counts) * len(samples))
            file.write(logits.tobytes())
            row_counts += counts
            if progress:
                progress(len(row_counts) / len(samples))
    (folder / _METADATA).write_text(json.dumps({"classes": classes, "rows": row_counts}), encoding="utf-8")


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _DISK_RESERVE > free:
        raise UserError(
            f"the logits of a teacher take {format_bytes(needed)}, with {format_bytes(_DISK_RESERVE)} to spare, and "
            f"{folder.parent} has {format_bytes(free)} left: leave finetune.cache_logits out, or set "
            "COMPRESSOR_CACHE to another folder"
        )


def _entry_name(teacher: PreTrainedModel, samples: TrainingSamples) -> str:
    key = getattr(samples, "key", None)
    digest = hashlib.sha256(fingerprint(teacher).encode())
    digest.update((key or _content_hash(samples)).encode())
    return digest.hexdigest()[:32]


def _content_hash(samples: TrainingSamples) -> str:
    digest = hashlib.sha256()
    for index in range(len(samples)):
        for name, value in sorted(samples[index].items()):
            if name not in ("labels", INDEX):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
