"""The teachers' logits of all samples, kept on disk: a finetune that sees a sample again does not ask them again."""

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
from compressor.models.save import fingerprint
from compressor.utils.out_of_memory import format_bytes

#: The key under which a batch says which samples it is made of.
INDEX = "index"
_ROWS, _ABOUT = "logits.f32", "about.json"
#: What else a disk should have room for.
_SPARE = 1 << 28

#: Told the share that is done.
OnShare = Callable[[float], None]


class IndexedSamples(Dataset[dict[str, Tensor]]):
    """Samples that say which ones they are, under `INDEX`."""

    def __init__(self, samples: TrainingSamples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several samples; torch's DataLoader asks for a batch so."""
        found = read_samples(self._samples, indices)
        return [{**sample, INDEX: torch.tensor(index)} for sample, index in zip(found, indices, strict=True)]


class CachedLogits:
    """One teacher's logits of all samples.

    Args:
        folder: as `cache_logits` has written it.
    """

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        self._rows = np.memmap(folder / _ROWS, np.float32, "r").reshape(-1, about["classes"])
        self._starts = np.cumsum([0, *about["rows"]])

    def of(self, indices: Sequence[int]) -> Tensor:
        """The logits that count of some samples, one after the other, [P, C] float32."""
        parts = [self._rows[self._starts[index] : self._starts[index + 1]] for index in indices]
        return torch.from_numpy(np.concatenate(parts))


def cache_logits(
    teacher: PreTrainedModel,
    samples: TrainingSamples,
    ask: Callable[[Mapping[str, Tensor]], Tensor],
    folder: Path,
    *,
    batch_size: int,
    collate: Callable[..., Any],
    mask: str | None,
    told: OnShare | None = None,
) -> CachedLogits:
    """A teacher's logits of all samples: those of `folder` if they have been kept there, else asked for and kept.

    Args:
        teacher: whose hash is part of their name.
        samples: all of them, in their order; their own `key`, if they have one, stands for data and preprocessor, else
            all that they hold does.
        ask: the teacher's logits that count of a batch, [P, C].
        folder: where logits are kept, those of other teachers and data too.
        batch_size, collate: how samples are put together.
        mask: the input whose ones are the positions that count; None for one answer a sample.
        told: told of progress.

    Raises:
        UserError: there is no room for them, or the folder cannot be written.
    """
    place = folder / _name(teacher, samples)
    if place.exists():
        return CachedLogits(place)
    half = folder / f".{place.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / f"{place.name}.lock").acquire()
    except OSError as error:
        raise UserError(f"cannot keep logits in {folder} ({error}): set COMPRESSOR_CACHE to another folder") from None
    with held:
        # Another process may have kept them while this one waited; or died while it wrote.
        if not place.exists():
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            try:
                _write(half, samples, ask, DataLoader(samples, batch_size, collate_fn=collate), mask, told)  # type: ignore[arg-type]
                half.rename(place)
            finally:
                shutil.rmtree(half, ignore_errors=True)
    return CachedLogits(place)


def read_samples(samples: TrainingSamples, indices: Sequence[int]) -> list[dict[str, Tensor]]:
    """Samples read together, where they can be."""
    read = getattr(samples, "__getitems__", None)
    return read(indices) if read else [samples[index] for index in indices]


def _write(
    folder: Path,
    samples: TrainingSamples,
    ask: Callable[[Mapping[str, Tensor]], Tensor],
    batches: DataLoader[Any],
    mask: str | None,
    told: OnShare | None,
) -> None:
    rows: list[int] = []
    classes = 0
    with open(folder / _ROWS, "wb") as file:
        for batch in batches:
            values = ask(batch).float().cpu().contiguous().numpy()
            size = len(next(iter(batch.values())))
            own = batch[mask].sum(-1).tolist() if mask in batch else [len(values) // size] * size
            if not rows:
                classes = values.shape[1]
                _check_room(folder, values.nbytes // len(own) * len(samples))
            file.write(values.tobytes())
            rows += own
            if told:
                told(len(rows) / len(samples))
    (folder / _ABOUT).write_text(json.dumps({"classes": classes, "rows": rows}), encoding="utf-8")


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted + _SPARE > free:
        raise UserError(
            f"the logits of a teacher take {format_bytes(wanted)}, with {format_bytes(_SPARE)} to spare, and "
            f"{folder.parent} has {format_bytes(free)} left: leave finetune.cache_logits out, or set "
            "COMPRESSOR_CACHE to another folder"
        )


def _name(teacher: PreTrainedModel, samples: TrainingSamples) -> str:
    key = getattr(samples, "key", None)
    digest = hashlib.sha256(fingerprint(teacher).encode())
    digest.update((key or _content(samples)).encode())
    return digest.hexdigest()[:32]


def _content(samples: TrainingSamples) -> str:
    digest = hashlib.sha256()
    for index in range(len(samples)):
        for name, value in sorted(samples[index].items()):
            if name not in ("labels", INDEX):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
