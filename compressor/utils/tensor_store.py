"""Tensors in memory up to a budget, and in files beyond it."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor


class TensorStore:
    """Keeps tensors; those beyond the budget lie in files and are mapped into memory while they are used.

    Args:
        budget: bytes; None for no limit.
        folder: for the files, which end with the tensors; a temporary one if omitted.
    """

    def __init__(self, budget: int | None = None, folder: Path | None = None) -> None:
        self.budget, self._folder = budget, folder
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0
        #: Bytes of kept tensors: in memory, and in files.
        self.used, self.spilled = 0, 0
        #: The most there were.
        self.most_used, self.most_spilled = 0, 0

    def put(self, tensor: Tensor) -> StoredTensor:
        """Keep a tensor; it must not be changed afterwards."""
        size = tensor.nbytes
        if self.budget is None or self.used + size <= self.budget:
            self.used += size
            self.most_used = max(self.used, self.most_used)
            stored = StoredTensor(tensor)
            if self.budget is not None:
                weakref.finalize(stored, self._release, size)
            return stored
        self.spilled += size
        self.most_spilled = max(self.spilled, self.most_spilled)
        path = self._next_path()
        values = tensor.detach().contiguous().cpu()
        values.reshape(-1).view(torch.uint8).numpy().tofile(path)
        stored = StoredTensor(None, path, values.shape, values.dtype)
        weakref.finalize(stored, self._remove, path, size)
        return stored

    def many(self, tensors: Iterable[Tensor] = ()) -> StoredTensors:
        """A list whose entries are kept here."""
        return StoredTensors(self, map(self.put, tensors))

    def _next_path(self) -> Path:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="compressor-", dir=self._folder)
        self._count += 1
        return Path(self._scratch.name) / str(self._count)

    def _release(self, size: int) -> None:
        self.used -= size

    def _remove(self, path: Path, size: int) -> None:
        self.spilled -= size
        path.unlink(missing_ok=True)


class StoredTensor:
    """A kept tensor."""

    def __init__(
        self,
        tensor: Tensor | None,
        path: Path | None = None,
        shape: torch.Size | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._tensor, self._path, self._shape, self._dtype = tensor, path, shape or torch.Size(), dtype

    def get(self) -> Tensor:
        """The tensor, mapped to its file if it lies in one."""
        if self._tensor is not None:
            return self._tensor
        size = self._shape.numel()
        if not size:
            return torch.empty(self._shape, dtype=self._dtype)
        return torch.from_file(str(self._path), shared=False, size=size, dtype=self._dtype).reshape(self._shape)


class StoredTensors(Sequence[Tensor]):
    """A list of kept tensors; copies share them."""

    def __init__(self, store: TensorStore, entries: Iterable[StoredTensor] = ()) -> None:
        self.store, self.entries = store, list(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self.entries[index].get()

    def __setitem__(self, index: int, tensor: Tensor) -> None:
        self.entries[index] = self.store.put(tensor)

    def __iter__(self) -> Iterator[Tensor]:
        return (entry.get() for entry in self.entries)

    def append(self, tensor: Tensor) -> None:
        """Keep one more."""
        self.entries.append(self.store.put(tensor))

    def copy(self) -> StoredTensors:
        """The same tensors in another list."""
        return StoredTensors(self.store, self.entries)

    def every(self, step: int, start: int = 0) -> StoredTensors:
        """Every so many of the tensors."""
        return StoredTensors(self.store, self.entries[start::step])
